//! RSI_REALM_CONFIG, RSI_IPA_STATE_SET and RSI_IPA_STATE_GET.

use super::Answer;
use crate::platform::Platform;
use crate::rec::{Pending, RipasChange, Running};
use crate::rtt::common_ripas;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{ExitReason, Ripas};
use realm_abi::rsi::RealmConfig;
use zerocopy::IntoBytes;

/// `RsiRipasChangeFlags`: DESTROYED may be changed too.
const CHANGE_DESTROYED: u64 = 1;

impl<P: Platform> Running<'_, '_, P> {
    /// RSI_REALM_CONFIG. The whole page is written: what the structure does not name must be zero.
    pub(super) fn realm_config(&mut self, addr: u64) -> Answer {
        if !addr.is_multiple_of(GRANULE_SIZE) {
            return Answer::INPUT;
        }
        let mut config = RealmConfig::default();
        let filled = self.rmm.with_rd(self.realm.rd, |rd| {
            config.ipa_width = rd.ipa_width.into();
            config.hash_algo = rd.hash_algo;
            config.rpv = rd.rpv;
        });
        if filled.is_err() {
            return Answer::UNKNOWN;
        }
        match self.buffer(addr) {
            Ok(mut granule) => {
                self.rmm.platform.write_data(&mut granule, 0, config.as_bytes());
                Answer::success([0; 3])
            }
            Err(answer) => answer,
        }
    }

    /// Whether `[base, top)` is a range of whole granules of the protected half.
    fn is_protected_range(&self, base: u64, top: u64) -> bool {
        base.is_multiple_of(GRANULE_SIZE)
            && top.is_multiple_of(GRANULE_SIZE)
            && base < top
            && top <= self.realm.stage2.protected_top()
    }

    /// RSI_IPA_STATE_SET: the Host gets to see the request, and answers by entering the REC again.
    pub(super) fn ipa_state_set(&mut self, base: u64, top: u64, ripas: u64, flags: u64) -> Answer {
        let ripas = match u8::try_from(ripas).map(Ripas) {
            Ok(ripas @ (Ripas::EMPTY | Ripas::RAM)) if self.is_protected_range(base, top) => ripas,
            _ => return Answer::INPUT,
        };
        self.exit.ripas_base = base;
        self.exit.ripas_top = top;
        self.exit.ripas_value = ripas;
        let destroyed = flags & CHANGE_DESTROYED != 0;
        let change = RipasChange { addr: base, top, ripas, destroyed };
        self.exit_with(ExitReason::RIPAS_CHANGE, Pending::RipasChange(change));
        Answer::Exit
    }

    /// RSI_IPA_STATE_GET. What is reported ends at the end of a table at the latest.
    pub(super) fn ipa_state_get(&self, base: u64, top: u64) -> Answer {
        if !self.is_protected_range(base, top) {
            return Answer::INPUT;
        }
        match common_ripas(self.rmm, &self.realm.stage2, base, top) {
            Ok((end, ripas)) => Answer::success([end, ripas.0.into(), 0]),
            Err(_) => Answer::UNKNOWN,
        }
    }
}
