//! RSI_MEASUREMENT_READ and RSI_MEASUREMENT_EXTEND.

use super::Answer;
use crate::measurement;
use crate::platform::Platform;
use crate::rec::Running;
use realm_abi::rmi::MEASUREMENT_SLOTS;
use realm_abi::rsi::RsiStatus;
use zerocopy::IntoBytes;

impl<P: Platform> Running<'_, '_, P> {
    /// RSI_MEASUREMENT_READ. X1 to X8 are the slot.
    pub(super) fn measurement_read(&mut self, index: u64) -> Answer {
        let Some(index) = usize::try_from(index).ok().filter(|index| *index < MEASUREMENT_SLOTS) else {
            return Answer::INPUT;
        };
        let Ok(Some(slot)) = self.rmm.with_rd(self.realm.rd, |rd| rd.measurements.get(index).copied()) else {
            return Answer::UNKNOWN;
        };
        let [w1, w2, w3, w4, w5, w6, w7, w8]: [u64; 8] = zerocopy::transmute!(slot);
        self.set_first_gprs([RsiStatus::SUCCESS.0, w1, w2, w3, w4, w5, w6, w7, w8]);
        Answer::Over
    }

    /// RSI_MEASUREMENT_EXTEND.
    pub(super) fn measurement_extend(&self, index: u64, size: u64, value: &[u64; 8]) -> Answer {
        let index = usize::try_from(index).ok().filter(|index| (1..MEASUREMENT_SLOTS).contains(index));
        let value = usize::try_from(size).ok().and_then(|size| value.as_bytes().get(..size));
        let (Some(index), Some(value)) = (index, value) else {
            return Answer::INPUT;
        };
        let platform = &self.rmm.platform;
        match self.rmm.with_rd(self.realm.rd, |rd| measurement::extend_rem(platform, rd, index, value)) {
            Ok(()) => Answer::success([0; 3]),
            Err(_) => Answer::UNKNOWN,
        }
    }
}
