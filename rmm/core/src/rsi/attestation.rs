//! RSI_ATTESTATION_TOKEN_INIT and RSI_ATTESTATION_TOKEN_CONTINUE.

use super::Answer;
use crate::attest::{Generation, Progress, Subject};
use crate::granule::GranuleState;
use crate::platform::Platform;
use crate::rec::Running;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::ExitReason;
use realm_abi::rsi::RsiStatus;

impl<P: Platform> Running<'_, '_, P> {
    /// Runs `f` on the token this REC makes; `None` never, as a REC has its auxiliary granules.
    fn with_generation<R>(&self, f: impl FnOnce(&mut Generation) -> R) -> Option<R> {
        let pa = *self.rec.aux().first()?;
        let mut granule = self.rmm.granules.lock(pa, GranuleState::RecAux).ok()?;
        Some(granule.with(&self.rmm.platform, f))
    }

    /// RSI_ATTESTATION_TOKEN_INIT. What the token says of the realm is what holds now. The specification knows no
    /// failure; without a key from EL3 there is one all the same.
    pub(super) fn attestation_token_init(&self, challenge: &[u64; 8]) -> Answer {
        let realm = self.rmm.with_rd(self.realm.rd, |rd| (rd.measurements, rd.rpv, rd.hash_algo));
        let Ok((measurements, rpv, hash_algo)) = realm else {
            return Answer::UNKNOWN;
        };
        let challenge = &zerocopy::transmute!(*challenge);
        let subject = Subject { challenge, rpv: &rpv, hash_algo, measurements: &measurements };
        match self.with_generation(|generation| self.rmm.attestation.begin(generation, &subject)) {
            // At most PLATFORM_TOKEN_MAX and a little more.
            Some(Ok(len)) => Answer::success([u64::try_from(len).unwrap_or(u64::MAX), 0, 0]),
            _ => Answer::UNKNOWN,
        }
    }

    /// RSI_ATTESTATION_TOKEN_CONTINUE: signs first, then hands out what fits.
    pub(super) fn attestation_token_continue(&mut self, addr: u64, offset: u64, size: u64) -> Answer {
        let fits = offset < GRANULE_SIZE && offset.checked_add(size).is_some_and(|end| end <= GRANULE_SIZE);
        if !addr.is_multiple_of(GRANULE_SIZE) || !self.realm.stage2.is_protected(addr) || !fits {
            return Answer::INPUT;
        }
        let (attestation, platform) = (&self.rmm.attestation, &self.rmm.platform);
        let signed = self.with_generation(|generation| {
            generation.in_progress().then(|| attestation.sign(generation, || platform.interrupt_pending()))
        });
        match signed {
            Some(Some(Ok(Progress::Done))) => {}
            Some(Some(Ok(Progress::Interrupted))) => {
                self.answer(RsiStatus::INCOMPLETE, [0; 3]);
                self.exit_for(ExitReason::IRQ);
                return Answer::Exit;
            }
            Some(None) => return Answer::failed(RsiStatus::ERROR_STATE),
            _ => return Answer::UNKNOWN,
        }
        let mut granule = match self.buffer(addr) {
            Ok(granule) => granule,
            Err(answer) => return answer,
        };
        let handed_out = self.with_generation(|generation| {
            // Both are at most 4096.
            let (mut place, mut left) =
                (usize::try_from(offset).unwrap_or(0), usize::try_from(size).unwrap_or(0));
            let mut written = 0_u64;
            let mut complete = true;
            for piece in attestation.rest(generation) {
                let (now, later) = piece.split_at(piece.len().min(left));
                platform.write_data(&mut granule, place, now);
                place = place.saturating_add(now.len());
                left = left.saturating_sub(now.len());
                written = written.saturating_add(u64::try_from(now.len()).unwrap_or(0));
                complete &= later.is_empty();
            }
            generation.take(written);
            if complete {
                generation.wipe();
            }
            (complete, written)
        });
        match handed_out {
            Some((true, written)) => Answer::success([written, 0, 0]),
            Some((false, written)) => Answer::Done(RsiStatus::INCOMPLETE, [written, 0, 0]),
            None => Answer::UNKNOWN,
        }
    }
}
