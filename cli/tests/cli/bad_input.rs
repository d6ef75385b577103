//! Bad input: exit code 2, one line that names the value and the rule, nothing left behind.

use crate::support::{Dir, kernel};
use std::process::Command;

/// Runs a command and checks how it refuses: the parts are in its one line.
fn refuses(dir: &Dir, arguments: &[&str], parts: &[&str]) {
    let before = dir.files();
    let output = dir.realm_with(arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "realm {arguments:?}: {errors}");
    assert!(output.stdout.is_empty(), "realm {arguments:?} printed something");
    assert_eq!(errors.matches('\n').count(), 1, "realm {arguments:?}: {errors}");
    assert!(errors.starts_with("error: ") && errors.ends_with('\n'), "realm {arguments:?}: {errors}");
    for part in parts {
        assert!(errors.contains(part), "realm {arguments:?}: {errors:?} should name {part:?}");
    }
    assert_eq!(dir.files(), before, "realm {arguments:?} left something behind");
}

/// The same for `run` and `measure`, which take the same realm options.
fn refuses_realm(dir: &Dir, options: &[&str], parts: &[&str]) {
    let run = ["run", "--token", "token", "--json", "out.json"];
    for command in [&run[..], &["measure", "--json", "out.json"]] {
        refuses(dir, &[command, options].concat(), parts);
    }
}

#[test]
fn what_is_no_kernel_is_refused() {
    let dir = Dir::new();
    let image = dir.read("Image");
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("empty", &[], &["empty: ", "0 bytes long", "64 bytes"]),
        ("short", &image[..63], &["63 bytes long"]),
        ("zeros", &[0; 4096], &["0x00000000 at offset 56", "ARM"]),
        ("gzip", &[0x1f, 0x8b, 8, 0, 0], &["compressed (gzip)"]),
        ("elf", b"\x7fELF\x02\x01\x01", &["ELF"]),
        ("windows", &[b"MZ".as_slice(), &[0; 100]].concat(), &["EFI program (PE)"]),
        ("old", &kernel(0x1000, 0), &["image_size 0"]),
        ("small", &kernel(0x2000, 0x1000), &["image_size 0x1000"]),
        ("truncated", &truncated_efi_image(), &["truncated", "8192 bytes of the 16384 bytes"]),
        ("head", &truncated_efi_image()[..100], &["truncated", "100 bytes"]),
    ];
    for (name, content, parts) in cases {
        dir.write(name, content);
        refuses_realm(&dir, &["--kernel", name], &[&[*name], *parts].concat());
    }
    refuses_realm(&dir, &["--kernel", "missing"], &["missing", "No such file"]);
    refuses_realm(&dir, &["--kernel", "."], &[".: not a regular file"]);
    refuses_realm(&dir, &["--kernel", "/dev/zero"], &["/dev/zero: not a regular file"]);
    refuses_realm(&dir, &[], &["--kernel <FILE>"]);
}

#[test]
fn a_fifo_where_a_file_belongs_is_refused_without_waiting_for_its_writer() {
    let dir = Dir::new();
    let made = Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap();
    assert!(made.success());
    refuses_realm(&dir, &["--kernel", "fifo"], &["fifo: not a regular file"]);
    refuses_realm(&dir, &["--kernel", "Image", "--initrd", "fifo"], &["fifo: not a regular file"]);
    let layout = r#"{"ipa_bits": 33, "hash": "sha256", "num_bps": 2, "num_wps": 2,
        "steps": [{"populate": {"ipa": 0, "file": "fifo", "measured": true}}]}"#;
    dir.write("layout", layout.as_bytes());
    refuses(&dir, &["measure", "--layout", "layout"], &["step 1 (populate): fifo: not a regular file"]);
}

#[test]
fn an_error_nobody_can_read_still_has_its_exit_code() {
    let dir = Dir::new();
    for arguments in [["run", "--kernal"], ["token", "sign"], ["measure", "--kernel=missing"]] {
        // Every write to this device fails.
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_realm"));
        let status = command.args(arguments).current_dir(dir.path()).stderr(full).status().unwrap();
        assert_eq!(status.code(), Some(2), "realm {arguments:?}");
    }
}

/// Half of an image whose section table names 16 KiB.
fn truncated_efi_image() -> Vec<u8> {
    let mut file = kernel(0x4000, 0x5000);
    file[..2].copy_from_slice(b"MZ");
    file[60] = 64;
    file[64..68].copy_from_slice(b"PE\0\0");
    file[70..72].copy_from_slice(&1_u16.to_le_bytes());
    file[84..86].fill(0);
    file[88 + 16..88 + 20].copy_from_slice(&0x3000_u32.to_le_bytes());
    file[88 + 20..88 + 24].copy_from_slice(&0x1000_u32.to_le_bytes());
    file.truncate(0x2000);
    file
}

#[test]
fn a_realm_that_cannot_be_is_refused() {
    let dir = Dir::new();
    dir.write("large", &vec![1; 3 << 20]);
    std::fs::File::create(dir.path().join("huge")).unwrap().set_len((256 << 20) + 1).unwrap();
    dir.write("empty", &[]);
    dir.write("wide", &kernel(0x1000, 64 << 20));
    let long = "a".repeat(0x1_0000);
    let cases: &[(&[&str], &[&str])] = &[
        (&["--cpus", "0"], &["0 CPUs", "at least 1"]),
        (&["--cpus", "513"], &["513 CPUs", "at most 512"]),
        (&["--cpus", "-1"], &["-1"]),
        (&["--cpus", "two"], &["'two'", "--cpus"]),
        (&["--cpus", "4294967296"], &["4294967296", "--cpus"]),
        (&["--memory", "0"], &["0x0", "64 KiB"]),
        (&["--memory", "100K"], &["memory size 0x19000", "multiple of 64 KiB"]),
        (&["--memory", "a lot"], &["'a lot' is not a size", "--memory"]),
        (&["--memory", "16777216T"], &["16777216T", "2^64"]),
        (&["--memory", "64K"], &["the device tree needs 0x200000 bytes", "0x10000"]),
        (&["--memory", "2M"], &["the kernel needs 0x5000 bytes", "0x0 bytes are free"]),
        (&["--memory", "4M", "--initrd", "large"], &["the initrd needs 0x300000 bytes"]),
        (&["--initrd", "huge"], &["huge: 268435457 bytes do not fit in the first 256 MiB"]),
        (&["--memory", "4G", "--ipa-bits", "33"], &["0x100000000 bytes", "0x100000000", "33 IPA bits"]),
        (&["--memory", "8388608T"], &["0x8000000000000000 bytes", "52 IPA bits"]),
        (&["--ipa-bits", "32"], &["32 bits", "33 to 52"]),
        (&["--ipa-bits", "53"], &["53"]),
        (&["--ipa-bits", "256"], &["256", "--ipa-bits"]),
        (&["--initrd", "empty"], &["the initrd is empty"]),
        (&["--initrd", "missing"], &["missing", "No such file"]),
        (&["--append", &long], &["the device tree takes", "shorten the kernel command line"]),
        (&["--hash", "sha384"], &["'sha384'", "--hash", "sha256, sha512"]),
        (&["--rpv", &long], &["65536 bytes", "at most 64"]),
        (&["--rpv", "@large"], &["@large", "at most 64"]),
        (&["--rpv", "@missing"], &["missing", "No such file"]),
    ];
    for (options, parts) in cases {
        refuses_realm(&dir, &[&["--kernel", "Image"], *options].concat(), parts);
    }
    refuses_realm(&dir, &["--kernel", "wide", "--memory", "32M"], &["the kernel needs 0x4000000 bytes"]);
}

#[test]
fn what_the_hosted_machine_has_not_is_refused() {
    let dir = Dir::new();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--ipa-bits", "49"], &["--ipa-bits 49", "at most 48"]),
        (&["--memory", "64G"], &["memory of 64 GiB", "at most 16 GiB"]),
        (&["--machine", "laptop"], &["'laptop'", "--machine", "hosted"]),
        (&["--machine", "qemu", "--parts", "none"], &["none/flash.bin: not there", "cargo xtask run"]),
        (&["--machine", "kvm"], &["/dev/kvm-realm", "module kvm-realm"]),
        (&["--machine", "qemu", "--token", "out"], &["--token: only the hosted machine"]),
        (&["--machine", "kvm", "--challenge", "00"], &["--challenge: only the hosted machine"]),
        (&["--challenge", "abc"], &["'abc'", "--challenge", "3 hexadecimal digits"]),
        (&["--challenge", "xy"], &["'xy'", "not hexadecimal digits"]),
        (&["--challenge", &"00".repeat(65)], &["at most 64"]),
        (&["--token", "no/token"], &["no/token", "no directory no"]),
        (&["--token", "."], &[".: is a directory"]),
        (&["--token", "no/"], &["no/: is a directory"]),
        (&["--token", "-"], &["--token -", "not to standard output"]),
        (&["--token", "out", "--json", "out"], &["out: --token and --json need a file each"]),
        (&["--json", "no/out"], &["no/out", "no directory no"]),
        (&["--rpv", "@"], &["'': No such file"]),
    ];
    for (options, parts) in cases {
        refuses(&dir, &[&["run", "--kernel", "Image"], *options].concat(), parts);
    }
    let cases: &[(&[&str], &[&str])] = &[
        (&["--num-bps", "1"], &["num_bps 1 is not in 2..=64"]),
        (&["--num-wps", "65"], &["num_wps 65 is not in 2..=64"]),
        (&["--layout", "layout"], &["--layout <FILE>", "cannot be used with"]),
    ];
    for (options, parts) in cases {
        refuses(&dir, &[&["measure", "--kernel", "Image"], *options].concat(), parts);
    }
}

#[test]
fn a_command_that_is_none_is_refused() {
    let dir = Dir::new();
    refuses(&dir, &["start"], &["'start'"]);
    refuses(&dir, &["run", "--kernal", "Image"], &["--kernal"]);
    refuses(&dir, &["token", "verify", "Image"], &["--platform-key <FILE>"]);
    refuses(&dir, &["token", "sign"], &["'sign'"]);
}

#[test]
fn a_layout_no_host_could_follow_is_refused() {
    let dir = Dir::new();
    dir.write("page", &[1; 4096]);
    dir.write("empty", &[]);
    let populate = |ipa: &str, file: &str| {
        format!(r#"{{"populate": {{"ipa": {ipa}, "file": "{file}", "measured": true}}}}"#)
    };
    let ripas = |base: &str, size: &str| format!(r#"{{"init_ripas": {{"base": {base}, "size": {size}}}}}"#);
    let page = populate("\"0x80000000\"", "page");
    let cases: &[(String, &[&str])] = &[
        (ripas("\"0x80000800\"", "4096"), &["step 1 (init_ripas)", "base 0x80000800", "granule size 4096"]),
        (ripas("0", "1"), &["size 0x1", "granule size 4096"]),
        (ripas("0", "0"), &["size is 0"]),
        (ripas("\"0xfffff000\"", "8192"), &["0xfffff000 + 0x2000", "beyond 0x100000000"]),
        (ripas("\"0xfffffffffffff000\"", "8192"), &["0xfffffffffffff000 + 0x2000", "beyond 0x100000000"]),
        (
            format!("{page}, {}", ripas("\"0x80000000\"", "4096")),
            &["step 2 (init_ripas)", "0x80000000 is already"],
        ),
        (format!("{page}, {page}"), &["step 2 (populate)", "0x80000000 is already populated"]),
        (populate("2048", "page"), &["ipa 0x800", "granule size 4096"]),
        (populate("\"0x100000000\"", "page"), &["0x100000000 + 0x1000", "beyond 0x100000000"]),
        (populate("0", "empty"), &["empty (0 bytes)", "size is 0"]),
        (populate("0", "missing"), &["missing", "No such file"]),
        (populate("0", "."), &["not a regular file"]),
        (populate("-1", "page"), &["integer `-1`"]),
        (
            r#"{"rec": {"pc": 0, "gprs": [0,1,2,3,4,5,6,7,8], "runnable": true}}"#.into(),
            &["9 gprs", "at most 8"],
        ),
        (r#"{"rec": {"pc": 0, "runnable": true}}"#.into(), &["missing field `gprs`"]),
        (r#"{"activate": {}}"#.into(), &["unknown variant `activate`"]),
    ];
    for (steps, parts) in cases {
        let layout = format!(
            r#"{{"ipa_bits": 33, "hash": "sha256", "lpa2": false, "sve_vl": null, "num_bps": 2, "num_wps": 2,
                "pmu_num_ctrs": null, "steps": [{steps}]}}"#
        );
        dir.write("layout", layout.as_bytes());
        refuses(&dir, &["measure", "--layout", "layout"], &[&["layout: "], *parts].concat());
    }
    let cases: &[(&str, &str)] = &[
        ("", "EOF"),
        ("7", "invalid type"),
        (r#"{"ipa_bits": 31, "hash": "sha256", "num_bps": 2, "num_wps": 2, "steps": []}"#, "ipa_bits 31"),
        (r#"{"ipa_bits": 49, "hash": "sha256", "num_bps": 2, "num_wps": 2, "steps": []}"#, "more needs lpa2"),
        (r#"{"ipa_bits": 33, "hash": "md5", "num_bps": 2, "num_wps": 2, "steps": []}"#, "md5"),
        (r#"{"ipa_bits": 33, "hash": "sha256", "num_bps": 1, "num_wps": 2, "steps": []}"#, "num_bps 1"),
        (
            r#"{"ipa_bits": 33, "hash": "sha256", "num_bps": 2, "num_wps": 2, "steps": [], "x": 1}"#,
            "field `x`",
        ),
    ];
    for (layout, part) in cases {
        dir.write("layout", layout.as_bytes());
        refuses(&dir, &["measure", "--layout", "layout"], &["layout: ", part]);
    }
    refuses(&dir, &["measure", "--layout", "missing"], &["missing", "No such file"]);
}

#[test]
fn what_is_no_token_or_no_key_is_refused() {
    let dir = Dir::new();
    let token = include_bytes!("../transcripts/token.in/token.cbor");
    let mut renamed = token.to_vec();
    // Tag 399 becomes 400.
    renamed[2] ^= 0x1f;
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("empty", &[], &["malformed CBOR at byte 0"]),
        ("text", b"a token, honestly", &["CCA token"]),
        ("cut", &token[..token.len() - 1], &["malformed CBOR"]),
        ("long", &[token.as_slice(), b"!"].concat(), &["1 bytes after the end"]),
        ("renamed", &renamed, &["expected CBOR tag 399"]),
        ("large", &[0; 0x1_0001], &["65537 bytes", "at most 65536"]),
    ];
    let key = include_bytes!("../transcripts/token.in/platform-key.pem");
    dir.write("key", key);
    dir.write("good", token);
    for (name, content, parts) in cases {
        dir.write(name, content);
        let parts = [&[*name], *parts].concat();
        refuses(&dir, &["token", "show", name], &parts);
        refuses(&dir, &["token", "verify", name, "--platform-key", "key"], &parts);
    }
    refuses(&dir, &["token", "show", "missing"], &["missing", "No such file"]);
    refuses(&dir, &["token", "show", "."], &["."]);

    dir.write("private", b"-----BEGIN PRIVATE KEY-----\n");
    dir.write("other", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    let verify = ["token", "verify", "good", "--platform-key"];
    for (key, part) in [
        ("private", "a private key"),
        ("other", "P-384 public key"),
        ("Image", "not a public key"),
        ("missing", "No such file"),
    ] {
        refuses(&dir, &[&verify[..], &[key]].concat(), &[key, part]);
    }
    for (option, value, part) in [
        ("--rim", "abcd", "2 bytes: a measurement has 32 (sha256) or 64 (sha512)"),
        ("--rim", "xyz", "not hexadecimal digits"),
        ("--rpv", "", "not hexadecimal digits"),
        ("--challenge", "0", "1 hexadecimal digits"),
    ] {
        refuses(&dir, &[&verify[..], &["key", option, value]].concat(), &[option, part]);
    }
}
