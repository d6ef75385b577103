//! What the RMM may answer.

use realm_abi::rmi::{ReturnCode, RmiReply};

/// What is known about an output register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this value.
    Is(u64),
    /// The specification does not constrain it.
    Any,
}

/// One failure condition that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The specification's name of the condition.
    pub condition: &'static str,
    /// The code that reports it.
    pub code: ReturnCode,
    /// X1 to X4.
    pub out: [Expect; 4],
}

/// What the RMM may answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command fails, with any one of these.
    Failure(Vec<Failure>),
    /// The command succeeds, with these X1 to X4.
    Success([Expect; 4]),
    /// REC_ENTER: it will succeed; what happens until it returns is for the run functions of the model.
    Entered,
}

impl Outcome {
    pub(crate) fn success(values: &[u64]) -> Self {
        Self::Success(std::array::from_fn(|i| values.get(i).map_or(Expect::Any, |value| Expect::Is(*value))))
    }

    pub(crate) fn fails(condition: &'static str, code: ReturnCode) -> Self {
        Self::Failure(vec![Failure { condition, code, out: [Expect::Any; 4] }])
    }

    /// Compares with what the RMM answered. `Ok` names the conditions the answer may stand for, none for success.
    ///
    /// # Errors
    /// What was allowed and what came, in words.
    pub fn check(&self, reply: &RmiReply) -> Result<Vec<&'static str>, String> {
        let fits = |code: ReturnCode, out: &[Expect; 4]| {
            reply.code == code
                && out.iter().zip(reply.out).all(|(expect, is)| match expect {
                    Expect::Is(value) => *value == is,
                    Expect::Any => true,
                })
        };
        let conditions: Vec<_> = match self {
            Self::Entered if reply.code.is_success() => return Ok(Vec::new()),
            Self::Success(out) if fits(ReturnCode::SUCCESS, out) => return Ok(Vec::new()),
            Self::Failure(failures) => {
                failures.iter().filter(|f| fits(f.code, &f.out)).map(|f| f.condition).collect()
            }
            Self::Entered | Self::Success(_) => Vec::new(),
        };
        if conditions.is_empty() {
            Err(format!("the model allows {self:x?}, the RMM said {reply:x?}"))
        } else {
            Ok(conditions)
        }
    }
}

/// The failure conditions of one command that hold, and the order in which they must be reported.
#[derive(Default)]
pub(crate) struct Conditions {
    failed: Vec<Failure>,
    orders: Vec<(&'static [&'static str], &'static [&'static str])>,
}

impl Conditions {
    /// Notes a condition with its code if it `holds`.
    pub(crate) fn fail_if(&mut self, condition: &'static str, holds: bool, code: ReturnCode) {
        self.fail_with(condition, holds, code, [Expect::Any; 4]);
    }

    /// The same for the most common code.
    pub(crate) fn input_if(&mut self, condition: &'static str, holds: bool) {
        self.fail_if(condition, holds, ReturnCode::ERROR_INPUT);
    }

    /// The same with outputs.
    pub(crate) fn fail_with(
        &mut self,
        condition: &'static str,
        holds: bool,
        code: ReturnCode,
        out: [Expect; 4],
    ) {
        if holds {
            self.failed.push(Failure { condition, code, out });
        }
    }

    /// If a condition of `first` and one of `then` hold, the former is reported.
    pub(crate) fn order(&mut self, first: &'static [&'static str], then: &'static [&'static str]) {
        self.orders.push((first, then));
    }

    /// The failure, `None` if no condition holds. X`zero_top` (1 to 4) is 0 where no condition gave it a value: the
    /// commands that report progress report none for a wrong input.
    pub(crate) fn outcome(self, zero_top: Option<usize>) -> Option<Outcome> {
        let holds = |names: &[&str]| self.failed.iter().any(|f| names.contains(&f.condition));
        let allowed: Vec<Failure> = self
            .failed
            .iter()
            .filter(|f| !self.orders.iter().any(|(first, then)| then.contains(&f.condition) && holds(first)))
            .cloned()
            .map(|mut f| {
                if let Some(register) = zero_top.and_then(|n| f.out.get_mut(n - 1))
                    && *register == Expect::Any
                {
                    *register = Expect::Is(0);
                }
                f
            })
            .collect();
        (!allowed.is_empty()).then_some(Outcome::Failure(allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions() -> Conditions {
        let mut c = Conditions::default();
        c.order(&["a"], &["b"]);
        c
    }

    #[test]
    fn an_ordered_condition_hides_the_later_one() {
        let mut c = conditions();
        c.input_if("a", true);
        c.fail_if("b", true, ReturnCode::ERROR_REALM);
        let outcome = c.outcome(None).unwrap();
        assert_eq!(outcome.check(&RmiReply::failed(ReturnCode::ERROR_INPUT)), Ok(vec!["a"]));
        assert!(outcome.check(&RmiReply::failed(ReturnCode::ERROR_REALM)).is_err());
    }

    #[test]
    fn unordered_conditions_may_each_be_reported() {
        let mut c = conditions();
        c.fail_if("b", true, ReturnCode::ERROR_REALM);
        c.input_if("c", true);
        let outcome = c.outcome(None).unwrap();
        assert_eq!(outcome.check(&RmiReply::failed(ReturnCode::ERROR_INPUT)), Ok(vec!["c"]));
        assert_eq!(outcome.check(&RmiReply::failed(ReturnCode::ERROR_REALM)), Ok(vec!["b"]));
        assert!(outcome.check(&RmiReply::SUCCESS).is_err());
    }

    #[test]
    fn an_output_that_is_specified_must_match() {
        let outcome = Outcome::success(&[7]);
        assert!(outcome.check(&RmiReply::success([7, 9, 9, 9])).is_ok());
        assert!(outcome.check(&RmiReply::success([8, 0, 0, 0])).is_err());
    }
}
