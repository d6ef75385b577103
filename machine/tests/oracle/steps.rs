//! Steps of a sequence: each is a kind and a number, and what it does follows from them and the state of the model. Most
//! of what it names is right; one argument in a dozen is not.

use crate::oracle::driver::Driver;
use crate::oracle::random::Choice;
use realm_abi::rmi::RmiCommand;
use realm_machine::memory::Pas;
use realm_model::RealmState;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: u8,
    pub seed: u32,
}

/// What a step's kind stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Realm,
    Tables,
    Data,
    Rec,
    Activate,
    Enter,
    Service,
    Command(u8),
    Secure,
    Garbage,
    Block,
}

const fn kind(byte: u8) -> Kind {
    match byte {
        0..=11 => Kind::Realm,
        12..=31 => Kind::Tables,
        32..=55 => Kind::Data,
        56..=69 => Kind::Rec,
        70..=75 => Kind::Activate,
        76..=123 => Kind::Enter,
        124..=143 => Kind::Service,
        144..=250 => Kind::Command(byte - 144),
        251..=252 => Kind::Secure,
        253 => Kind::Garbage,
        _ => Kind::Block,
    }
}

/// Host commands of [`Kind::Command`], the ones with more to go wrong more often.
const COMMANDS: [&str; 28] = [
    "delegate",
    "undelegate",
    "undelegate",
    "realm_create",
    "realm_destroy",
    "rec_destroy",
    "rec_create",
    "rtt_create",
    "rtt_create",
    "rtt_destroy",
    "rtt_destroy",
    "fold",
    "fold",
    "map",
    "map",
    "map",
    "unmap",
    "unmap",
    "read",
    "data",
    "data_unknown",
    "data_destroy",
    "data_destroy",
    "init_ripas",
    "init_ripas",
    "set_ripas",
    "psci_complete",
    "version_features_aux_count",
];

impl Driver {
    /// Does one step.
    ///
    /// # Errors
    /// What differs between the RMM and the model.
    pub fn step(&mut self, step: Step) -> Result<(), String> {
        let mut choice = Choice::new(u64::from(step.seed));
        let c = &mut choice;
        match self.useful(kind(step.kind), c) {
            Kind::Realm => self.build_realm(c),
            Kind::Tables => self.build_tables(c),
            Kind::Data => self.add_data(c),
            Kind::Rec => self.add_rec(c),
            Kind::Activate => {
                let populated: Vec<u64> = {
                    let shared = self.shared();
                    let ready = shared
                        .model
                        .realms()
                        .iter()
                        .filter(|(_, r)| r.num_recs > 0 && r.state == RealmState::New);
                    ready.map(|(rd, _)| *rd).collect()
                };
                let rd = match c.maybe(&populated) {
                    Some(rd) if !c.one_in(8) => rd,
                    _ => self.rd(c),
                };
                self.call(RmiCommand::RealmActivate { rd }).map(drop)
            }
            Kind::Enter => self.enter(c),
            Kind::Service => self.service(c),
            Kind::Command(n) => {
                let command = self.command(c, COMMANDS[usize::from(n) % COMMANDS.len()]);
                self.call(command).map(drop)
            }
            Kind::Secure => {
                self.secure(c);
                Ok(())
            }
            Kind::Garbage => {
                let regs = std::array::from_fn(|_| c.next());
                let function = 0xC400_0150 + c.below(0x40);
                let mut regs: [u64; 8] = regs;
                regs[0] = function;
                let name = RmiCommand::from_regs(&regs).name().unwrap_or("unknown");
                self.regs(regs, &format!("{regs:x?}"), name).map(drop)
            }
            Kind::Block => self.block(c),
        }
    }

    /// A realm with memory and some RECs that can run, so that what follows is about them.
    ///
    /// # Errors
    /// What differs between the RMM and the model.
    pub(crate) fn boot(&mut self, c: &mut Choice) -> Result<(), String> {
        for _ in 0..20 {
            if !self.shared().model.realms().is_empty() {
                break;
            }
            self.build_realm(c)?;
        }
        let Some(rd) = self.shared().model.realms().keys().next().copied() else { return Ok(()) };
        self.populate(c, rd)?;
        for _ in 0..3 {
            self.add_rec(c)?;
        }
        self.call(RmiCommand::RealmActivate { rd }).map(drop)
    }

    /// What has to come first for a step to do more than fail; mostly. Sequences so reach deep states.
    fn useful(&self, kind: Kind, c: &mut Choice) -> Kind {
        if c.one_in(8) {
            return kind;
        }
        let shared = self.shared();
        let realms = shared.model.realms();
        let new = |realm: &realm_model::Realm| realm.state == RealmState::New;
        let can_run = realms.values().any(|realm| realm.state == RealmState::Active && realm.num_recs > 0);
        match kind {
            Kind::Secure | Kind::Garbage | Kind::Realm => kind,
            _ if realms.is_empty() => Kind::Realm,
            Kind::Rec | Kind::Activate if !realms.values().any(new) => Kind::Enter,
            Kind::Activate if realms.values().any(|realm| new(realm) && realm.num_recs < 2) => Kind::Rec,
            Kind::Enter if !can_run && c.one_in(4) => Kind::Data,
            Kind::Enter if !can_run && realms.values().any(|realm| new(realm) && realm.num_recs > 0) => {
                Kind::Activate
            }
            Kind::Enter if !can_run && realms.values().any(new) => Kind::Rec,
            Kind::Enter if !can_run => Kind::Realm,
            kind => kind,
        }
    }

    /// Another world takes a granule of the Host's, or gives one back.
    fn secure(&mut self, c: &mut Choice) {
        let pa = if c.one_in(3) { c.of(&self.host_pages) } else { c.of(&self.pool) };
        let memory = self.machine.memory();
        // Fails for what is neither; nothing happens then.
        let _ = memory.transition(pa, Pas::Secure, Pas::NonSecure).or_else(|_| {
            if c.one_in(3) { memory.transition(pa, Pas::NonSecure, Pas::Secure) } else { Ok(()) }
        });
    }
}
