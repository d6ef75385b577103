//! A small life: some memory, some sleep.

use crate::interrupt::{self, ENABLE, VIRTUAL_TIMER};
use crate::memory::{self, FREE, PAGE};
use crate::sysreg::msr;
use crate::time;

const PAGES: u64 = 64;
const NAPS: u64 = 3;

pub fn run() {
    for page in 0..PAGES {
        memory::write(FREE + page * PAGE, page);
    }
    interrupt::init();
    for nap in 1..=NAPS {
        msr!("cntv_cval_el0", time::now() + time::micros(1000));
        msr!("cntv_ctl_el0", ENABLE);
        while interrupt::count(VIRTUAL_TIMER) < nap {
            interrupt::sleep_unless(|| interrupt::count(VIRTUAL_TIMER) >= nap);
        }
    }
}
