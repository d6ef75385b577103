//! Whole lives of realms, from the command line to the verified token.

use crate::support::{Dir, kernel};
use serde_json::Value;

const PLATFORM_KEY: &str = include_str!("../../../attest/keys/test-platform-key.pub.pem");

fn sum(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

#[test]
fn a_realm_is_measured_as_predicted_and_gives_everything_back() {
    let dir = Dir::new();
    let run = dir.json("run --kernel Image --cpus 3 --memory 64M");
    assert_eq!(run["rim"], run["predicted_rim"]);
    assert_eq!(run["rim"], dir.json("measure --kernel Image --cpus 3 --memory 64M")["rim"]);
    assert_eq!(run["hash"], "sha256");
    assert_eq!(run["token"], Value::Null);
    assert_eq!(run["ok"], true);
    let granules = &run["granules"];
    assert_eq!(granules["delegated"], granules["undelegated"]);
    assert_eq!(granules["leaked"], 0);
    assert!(granules["delegated"].as_u64().unwrap() > 4);
    assert_eq!(run["rmi_calls"]["RMI_REC_CREATE"], 3);
    assert_eq!(run["rmi_calls"]["RMI_REALM_DESTROY"], 1);
    assert_eq!(run["rmi_calls"]["RMI_REC_ENTER"].as_u64(), Some(sum(&run["exits"])));
    let steps = run["steps"].as_array().unwrap();
    let calls: u64 = steps.iter().map(|step| step["rmi_calls"].as_u64().unwrap()).sum();
    let names: Vec<&str> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    // Version and features are asked before the first step.
    assert!(calls <= sum(&run["rmi_calls"]) && calls + 4 >= sum(&run["rmi_calls"]));
    assert!(
        names.starts_with(&["create vm"]) && names.ends_with(&["activate", "run", "destroy"]),
        "{names:?}"
    );
    assert!(steps.iter().all(|step| step["seconds"].is_f64()));
    assert_eq!(run["console"], "hello from the realm\n");
}

#[test]
fn the_token_of_a_realm_proves_what_was_asked_for() {
    let dir = Dir::new();
    dir.write("initrd", &[7; 5000]);
    dir.write("rpv", b"from a file");
    dir.write("key.pem", PLATFORM_KEY.as_bytes());
    let realm =
        "--kernel Image --initrd initrd --append quiet --hash sha512 --rpv @rpv --ipa-bits 40 --memory 1G";
    let run = dir.json(&format!("run {realm} --challenge 0123 --token token"));
    assert_eq!(run["token"], "token");
    let rim = dir.json(&format!("measure {realm}"))["rim"].as_str().unwrap().to_owned();
    assert_eq!(run["rim"], rim);
    let rpv = hex::encode("from a file");
    let verify = "token verify token --platform-key key.pem";
    let report = dir.json(&format!("{verify} --rim {rim} --rpv {rpv} --challenge 0123"));
    assert_eq!(report["ok"], true);
    assert_eq!(report["checks"].as_array().unwrap().len(), 10);
    let shown = dir.json("token show token");
    assert_eq!(shown["realm"]["initial_measurement"], rim);
    assert_eq!(shown["realm"]["hash_algorithm"], "sha-512");

    let other = "00".repeat(64);
    for (wrong, check) in [
        (format!("--rim {other}"), "realm initial measurement"),
        (format!("--rpv {other}"), "realm personalization value"),
        ("--challenge 0124".into(), "realm challenge"),
    ] {
        let output = dir.realm(&format!("{verify} {wrong}"));
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("FAIL  {check}")), "{text}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "error: 1 of 8 checks do not hold\n");
    }
}

#[test]
fn the_measurement_depends_on_what_is_in_the_realm_and_not_on_its_personalization_value() {
    let dir = Dir::new();
    let rim = |options: &str| dir.json(&format!("measure --kernel Image {options}"))["rim"].clone();
    let base = rim("");
    assert_eq!(base, rim("--rpv name"));
    assert_ne!(base, rim("--append quiet"), "the command line is in the device tree");
    assert_ne!(base, rim("--cpus 2"), "the CPUs are in the device tree");
    assert_ne!(base, rim("--memory 128M"));
    assert_ne!(base, rim("--ipa-bits 34"));
    let mut changed = dir.read("Image");
    *changed.last_mut().unwrap() ^= 1;
    dir.write("Image", &changed);
    assert_ne!(base, rim(""));
}

#[test]
fn a_layout_of_our_own_steps_has_the_measurement_of_a_run() {
    let dir = Dir::new();
    let measured = dir.json("measure --kernel Image --num-bps 4 --num-wps 3");
    // The device tree is the one part that is in no file: the steps up to the kernel are compared.
    let layout = serde_json::json!({
        "ipa_bits": 33, "hash": "sha256", "num_bps": 4, "num_wps": 3,
        "steps": [
            {"init_ripas": {"base": 0x8000_0000_u64, "size": "0x10000000"}},
            {"populate": {"ipa": "0x80000000", "file": "Image", "measured": true}},
        ],
    });
    dir.write("layout.json", layout.to_string().as_bytes());
    let followed = dir.json("measure --layout layout.json");
    assert_eq!(followed["rim"], measured["steps"][2]["rim"]);
}

#[test]
fn a_large_realm_takes_no_more_time_to_measure() {
    let dir = Dir::new();
    dir.write("Image", &kernel(0x1000, 0x1000));
    let measured = dir.json("measure --kernel Image --memory 32T");
    assert_eq!(measured["ipa_bits"], 47);
}

#[test]
fn json_can_go_to_a_file_beside_the_text() {
    let dir = Dir::new();
    let output = dir.realm("measure --kernel Image --json out.json");
    let json: Value = serde_json::from_slice(&dir.read("out.json")).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(json["rim"].as_str().unwrap()));
}

#[test]
fn the_doctor_knows_every_machine_and_how_to_mend_it() {
    let dir = Dir::new();
    let report = dir.json("doctor");
    let machines = report["machines"].as_array().unwrap();
    let names: Vec<&str> = machines.iter().map(|machine| machine["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["hosted", "qemu", "kvm"]);
    for need in machines.iter().flat_map(|machine| machine["needs"].as_array().unwrap()) {
        assert_eq!(need["ok"] == false, need["fix"].is_string(), "{need}");
    }
}
