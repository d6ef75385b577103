//! A realm that makes any RSI, PSCI and other call and touches any address, under a VMM and a Host that do what they
//! should: whatever it does harms nobody and everything comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_vmm::RealmVm;
use realmkit_fuzz::structured;
use realmkit_fuzz::world::{GuestOp, SETTINGS, World, guest, run_for_a_while, system_off};

fuzz_target!(|data: &[u8]| {
    let Ok(ops) = structured::<Vec<GuestOp>>(data) else { return };
    let world = World::default();
    world.machine.set_guest(move |guest| {
        for op in &ops {
            op.run(guest);
        }
        system_off(guest);
    });
    let process = world.process();
    let vm = RealmVm::build(&process, &guest(1), &SETTINGS, &mut ()).expect("nothing disturbs the VMM");
    if let Err(error) = run_for_a_while(&vm) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    vm.destroy(&mut ()).expect("everything can be given back");
    drop(process);
    world.check(false);
});
