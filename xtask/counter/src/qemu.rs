//! QEMU's side (its TCG plugin API, versions 3 and later).

use crate::samples::{Options, Samples, Site};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The version of the API this is written for.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 3;

/// What QEMU says of itself.
#[repr(C)]
pub struct Info {
    target_name: *const c_char,
    version_min: c_int,
    version_cur: c_int,
    system_emulation: bool,
    smp_cpus: c_int,
    max_cpus: c_int,
}

#[repr(C)]
struct Block([u8; 0]);
#[repr(C)]
struct Instruction([u8; 0]);

/// Callbacks that read no registers.
const NO_REGS: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_outs(text: *const c_char);
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: extern "C" fn(u64, *mut Block));
    fn qemu_plugin_register_atexit_cb(id: u64, callback: extern "C" fn(u64, *mut c_void), data: *mut c_void);
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    fn qemu_plugin_insn_data(instruction: *const Instruction, to: *mut c_void, size: usize) -> usize;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
}

/// A machine with one CPU translates and executes on one thread; what is reported at the end may come from another, so
/// the samples are handed over behind a lock that is free all the time.
static SAMPLES: std::sync::Mutex<Option<Shared>> = std::sync::Mutex::new(None);

struct Shared(Samples);

// SAFETY: the sites in it are shared by reference within the process, but they are only used with the lock held.
unsafe impl Send for Shared {}

fn with_samples(f: impl FnOnce(&mut Samples) -> std::io::Result<()>) {
    let Ok(mut guard) = SAMPLES.lock() else { return };
    let Some(Shared(samples)) = guard.as_mut() else { return };
    if let Err(error) = f(samples) {
        say(&format!("counter: {error}\n\0"));
    }
}

/// Says something in QEMU's log; `text` ends with a zero.
fn say(text: &str) {
    if let Ok(text) = CStr::from_bytes_until_nul(text.as_bytes()) {
        // SAFETY: a string of C.
        unsafe { qemu_plugin_outs(text.as_ptr()) };
    }
}

/// Called by QEMU when it has loaded the plugin.
///
/// # Safety
/// As QEMU promises: `info` and `argc` strings at `argv` are there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: QEMU's word for it.
    let info = unsafe { &*info };
    if !info.system_emulation || info.smp_cpus != 1 {
        eprintln!("counter: this plugin is for machines with one CPU");
        return 1;
    }
    let arg = |index| {
        // SAFETY: QEMU's word for it: there are so many.
        let text = unsafe { *argv.wrapping_add(index) };
        // SAFETY: likewise: each is a string.
        unsafe { CStr::from_ptr(text) }.to_str().unwrap_or_default()
    };
    let args: Vec<&str> = (0..usize::try_from(argc).unwrap_or(0)).map(arg).collect();
    let samples = Options::parse(args)
        .and_then(|options| Samples::new(options).map_err(|error| format!("cannot write samples: {error}")));
    let samples = match samples {
        Ok(samples) => samples,
        Err(error) => {
            eprintln!("counter: {error}");
            return 1;
        }
    };
    if let Ok(mut slot) = SAMPLES.lock() {
        *slot = Some(Shared(samples));
    }
    // SAFETY: the identifier is ours.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    // SAFETY: likewise.
    unsafe { qemu_plugin_register_atexit_cb(id, ended, std::ptr::null_mut()) };
    0
}

/// A block of code was translated: each of its instructions is to be reported when it is executed.
extern "C" fn translated(_id: u64, block: *mut Block) {
    with_samples(|samples| {
        // SAFETY: the block is there during the call.
        let count = unsafe { qemu_plugin_tb_n_insns(block) };
        for index in 0..count {
            // SAFETY: there are so many.
            let instruction = unsafe { qemu_plugin_tb_get_insn(block, index) };
            // SAFETY: an instruction of the block.
            let address = unsafe { qemu_plugin_insn_vaddr(instruction) };
            let mut word = [0; 4];
            // SAFETY: likewise, and there is room for what is asked.
            unsafe { qemu_plugin_insn_data(instruction, word.as_mut_ptr().cast(), word.len()) };
            let site: *const Site = samples.site(address, u32::from_le_bytes(word));
            // SAFETY: likewise; the site is there for ever.
            unsafe {
                qemu_plugin_register_vcpu_insn_exec_cb(
                    instruction,
                    executed,
                    NO_REGS,
                    site.cast_mut().cast(),
                );
            }
        }
        Ok(())
    });
}

extern "C" fn executed(_cpu: c_uint, site: *mut c_void) {
    // SAFETY: `translated` passed a site, which is there for ever and is only shared.
    let site = unsafe { &*site.cast::<Site>() };
    with_samples(|samples| samples.executed(site));
}

extern "C" fn ended(_id: u64, _data: *mut c_void) {
    with_samples(Samples::finish);
}
