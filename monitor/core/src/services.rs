//! What EL3 does for the RMM (RMM-EL3 communication interface): granules change hands, keys and tokens are given
//! out through the shared buffer.

use crate::attest::{self, Platform, REALM_ATTESTATION_KEY, TOKEN_MAX, TokenError};
use crate::gpt::{Gpt, GptError, Maintenance};
use crate::layout::{RMM, SHARED_BUFFER};
use crate::range::Range;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::Version;
use realm_abi::rmm_el3::{
    CURVE_P384, El3Call, El3Code, El3Features, El3Reply, HASH_SHA_384, SIG_ECDSA_P384, TokenSignOp,
    TokenSignRequest, TokenSignResponse,
};
use spin::Mutex;
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroize;

/// What is kept between calls.
#[derive(Debug)]
pub struct Services {
    interface: Version,
    token: Mutex<Token>,
    signature: Mutex<Option<TokenSignResponse>>,
    /// Memory the RMM can still ask for.
    pool: Mutex<Range>,
}

/// A platform token that is given out in pieces.
#[derive(Debug)]
struct Token {
    bytes: [u8; TOKEN_MAX],
    size: usize,
    given: usize,
}

impl Services {
    /// The services of this interface version. The RMM can ask for memory of `pool`.
    #[must_use]
    pub const fn new(interface: Version, pool: Range) -> Self {
        Self {
            interface,
            token: Mutex::new(Token { bytes: [0; TOKEN_MAX], size: 0, given: 0 }),
            signature: Mutex::new(None),
            pool: Mutex::new(pool),
        }
    }

    /// Answers a call that is not one of [`granule`] and not one that ends something. `shared` is the shared buffer;
    /// `platform` says what the platform token is to say, and is asked only when one is made.
    pub fn call<'p>(
        &self,
        call: &El3Call,
        shared: &mut [u8],
        platform: impl FnOnce() -> Platform<'p>,
    ) -> El3Reply {
        let minor = self.interface.minor();
        let result = match *call {
            El3Call::AttestGetRealmKey { buffer, size, curve } => realm_key(shared, buffer, size, curve),
            El3Call::AttestGetPlatToken { buffer, size, challenge_size } => {
                self.platform_token(shared, buffer, size, challenge_size, platform)
            }
            El3Call::Features { index } if minor >= 4 => match index {
                0 => Ok([El3Features::TOKEN_SIGN.0, 0, 0]),
                _ => Err(El3Code::INVAL),
            },
            El3Call::TokenSign { op, buffer, size, curve } if minor >= 4 => {
                self.token_sign(shared, op, buffer, size, curve)
            }
            El3Call::ReserveMemory { size, flags } if minor >= 7 => self.reserve(size, flags),
            // There are no memory encryption contexts and no link encryption on this board.
            _ => Err(El3Code::UNKNOWN),
        };
        result.map_or_else(El3Reply::new, El3Reply::success)
    }

    fn platform_token<'p>(
        &self,
        shared: &mut [u8],
        buffer: u64,
        size: u64,
        challenge_size: u64,
        platform: impl FnOnce() -> Platform<'p>,
    ) -> Result<[u64; 3], El3Code> {
        let buffer = piece(shared, buffer, size)?;
        let mut token = self.token.lock();
        if challenge_size != 0 {
            let length = usize::try_from(challenge_size).map_err(|_| El3Code::INVAL)?;
            let challenge = buffer.get(..length).ok_or(El3Code::INVAL)?;
            // What was left of an earlier token is gone, whether or not there is a new one.
            (token.size, token.given) = (0, 0);
            token.bytes.zeroize();
            token.size = attest::platform_token(&platform(), challenge, &mut token.bytes).map_err(
                |error| match error {
                    TokenError::Challenge(_) => El3Code::INVAL,
                    TokenError::NoRoom => El3Code::NOMEM,
                },
            )?;
        }
        let rest = token.bytes.get(token.given..token.size).unwrap_or(&[]);
        if rest.is_empty() || buffer.is_empty() {
            return Err(El3Code::INVAL);
        }
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        let remaining = rest.len().saturating_sub(count);
        token.given = token.given.saturating_add(count);
        if remaining == 0 {
            token.bytes.zeroize();
        }
        Ok([count as u64, remaining as u64, 0])
    }

    fn token_sign(
        &self,
        shared: &mut [u8],
        op: TokenSignOp,
        buffer: u64,
        size: u64,
        curve: u64,
    ) -> Result<[u64; 3], El3Code> {
        let buffer = piece(shared, buffer, size)?;
        match op {
            TokenSignOp::PUSH_REQUEST => {
                let (request, _) = TokenSignRequest::read_from_prefix(buffer).map_err(|_| El3Code::INVAL)?;
                let supported = request.sig_alg == SIG_ECDSA_P384 && request.hash_alg == HASH_SHA_384;
                let hash = request.hash.first_chunk().filter(|_| supported).ok_or(El3Code::INVAL)?;
                let mut queue = self.signature.lock();
                if queue.is_some() {
                    return Err(El3Code::AGAIN);
                }
                let signature = attest::sign_for_realm(hash).ok_or(El3Code::UNKNOWN)?;
                let mut response = TokenSignResponse::default();
                (response.rec, response.ticket) = (request.rec, request.ticket);
                for (to, from) in response.signature.iter_mut().zip(signature) {
                    *to = from;
                }
                response.sig_len = attest::SIGNATURE_SIZE as u16;
                *queue = Some(response);
                Ok([0; 3])
            }
            TokenSignOp::PULL_RESPONSE => {
                let out = buffer.get_mut(..size_of::<TokenSignResponse>()).ok_or(El3Code::INVAL)?;
                let response = self.signature.lock().take().ok_or(El3Code::AGAIN)?;
                out.copy_from_slice(response.as_bytes());
                Ok([0; 3])
            }
            TokenSignOp::GET_RAK_PUB => {
                if curve != CURVE_P384 {
                    return Err(El3Code::INVAL);
                }
                let point = attest::realm_public_key().ok_or(El3Code::UNKNOWN)?;
                buffer.get_mut(..point.len()).ok_or(El3Code::INVAL)?.copy_from_slice(&point);
                Ok([point.len() as u64, 0, 0])
            }
            _ => Err(El3Code::INVAL),
        }
    }

    /// Memory from the end of the RMM's pool, downwards. The shape of the flags is not written
    /// down where we could read it; this reads the logarithm of the alignment from bits 63:56 and ignores the rest, which are hints.
    fn reserve(&self, size: u64, flags: u64) -> Result<[u64; 3], El3Code> {
        let alignment = 1_u64.checked_shl((flags >> 56) as u32).ok_or(El3Code::INVAL)?.max(GRANULE_SIZE);
        if size == 0 || !size.is_multiple_of(GRANULE_SIZE) {
            return Err(El3Code::INVAL);
        }
        let mut left = self.pool.lock();
        let base = left.end().checked_sub(size).ok_or(El3Code::NOMEM)?;
        let base = base & !alignment.saturating_sub(1);
        left.size = base.checked_sub(left.base).ok_or(El3Code::NOMEM)?;
        Ok([base, 0, 0])
    }
}

/// Function identifier of RMM_GTSI_DELEGATE.
pub const GTSI_DELEGATE: u64 = El3Call::GtsiDelegate { pa: 0 }.fid();
/// Function identifier of RMM_GTSI_UNDELEGATE; it differs in bit 0 alone, which the assembly relies on.
pub const GTSI_UNDELEGATE: u64 = El3Call::GtsiUndelegate { pa: 0 }.fid();
const _: () = assert!(GTSI_DELEGATE & 1 == 0 && GTSI_UNDELEGATE == GTSI_DELEGATE | 1);

/// Answers RMM_GTSI_DELEGATE and RMM_GTSI_UNDELEGATE, from the function identifier in W0 and X1: all that is needed is the
/// table, so several CPUs may do so at the same time. `None` for any other call. Every page a realm gets comes this way,
/// so the other registers are not looked at.
pub fn granule(function: u64, pa: u64, gpt: &Gpt<'_>, maintenance: &impl Maintenance) -> Option<El3Code> {
    let result = match function {
        GTSI_DELEGATE => gpt.delegate(pa, maintenance),
        // The RMM's own memory never leaves the Realm world.
        GTSI_UNDELEGATE if RMM.contains(Range::new(pa, 1)) => Err(GptError::BadAddress),
        GTSI_UNDELEGATE => gpt.undelegate(pa, maintenance),
        _ => return None,
    };
    Some(result.map_or_else(gtsi_code, |()| El3Code::OK))
}

const fn gtsi_code(error: GptError) -> El3Code {
    match error {
        GptError::BadAddress => El3Code::BAD_ADDR,
        GptError::BadPas(_) => El3Code::BAD_PAS,
    }
}

/// The bytes of the shared buffer a call names.
fn piece(shared: &mut [u8], buffer: u64, size: u64) -> Result<&mut [u8], El3Code> {
    let start = buffer.checked_sub(SHARED_BUFFER.base).filter(|start| *start < SHARED_BUFFER.size);
    let start = start.and_then(|start| usize::try_from(start).ok()).ok_or(El3Code::BAD_ADDR)?;
    let end = usize::try_from(size).ok().and_then(|size| start.checked_add(size)).ok_or(El3Code::INVAL)?;
    shared.get_mut(start..end).ok_or(El3Code::INVAL)
}

fn realm_key(shared: &mut [u8], buffer: u64, size: u64, curve: u64) -> Result<[u64; 3], El3Code> {
    let buffer = piece(shared, buffer, size)?;
    if curve != CURVE_P384 {
        return Err(El3Code::INVAL);
    }
    let size = REALM_ATTESTATION_KEY.len();
    buffer.get_mut(..size).ok_or(El3Code::INVAL)?.copy_from_slice(&REALM_ATTESTATION_KEY);
    Ok([size as u64, 0, 0])
}

#[cfg(test)]
mod tests;
