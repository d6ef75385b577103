//! RSI_HOST_CALL: a structure of registers that goes to the Host and comes back.

use super::Answer;
use crate::platform::Platform;
use crate::rec::{Next, Pending, Running};
use core::mem::offset_of;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{ExitReason, GPRS};
use realm_abi::rsi::{HostCall, RsiStatus};
use zerocopy::IntoBytes;

/// Alignment of the structure, so that it stays in one granule.
const ALIGNMENT: u64 = 256;

/// Offset of `ipa` in its granule.
fn offset(ipa: u64) -> usize {
    // Below 4096.
    usize::try_from(ipa % GRANULE_SIZE).unwrap_or(0)
}

impl<P: Platform> Running<'_, '_, P> {
    /// RSI_HOST_CALL, up to the exit.
    pub(super) fn host_call(&mut self, addr: u64) -> Answer {
        if !addr.is_multiple_of(ALIGNMENT) {
            return Answer::INPUT;
        }
        let mut call = HostCall::default();
        match self.buffer(addr) {
            Ok(mut granule) => self.rmm.platform.read_data(&mut granule, offset(addr), call.as_mut_bytes()),
            Err(answer) => return answer,
        }
        self.exit.imm = call.imm;
        self.exit.gprs = call.gprs;
        self.exit_with(ExitReason::HOST_CALL, Pending::HostCall { ipa: addr });
        Answer::Exit
    }

    /// The Host's reply. If the structure's memory is gone, the Host has to bring it back before the realm goes on.
    pub(crate) fn complete_host_call(&mut self, ipa: u64, gprs: &[u64; GPRS]) -> Next {
        let status = match self.buffer(ipa) {
            Ok(mut granule) => {
                let place = offset(ipa).saturating_add(offset_of!(HostCall, gprs));
                self.rmm.platform.write_data(&mut granule, place, gprs.as_bytes());
                RsiStatus::SUCCESS
            }
            Err(Answer::Done(status, _)) => status,
            Err(_) => return Next::Exit,
        };
        self.answer(status, [0; 3]);
        Next::Resume
    }
}
