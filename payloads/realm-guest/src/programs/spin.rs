//! Counts for ever in memory the Host sees, without ever asking for anything: a realm to try things on.

use crate::memory::{self, FREE};

pub fn run() {
    let shared = FREE | memory::alias();
    for count in 1.. {
        memory::write(shared, count);
    }
}
