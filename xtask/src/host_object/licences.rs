//! The licences of what is linked into the module: it declares "Dual MIT/GPL", so all of it is available under terms like MIT's.

use crate::setup;
use crate::shell::{self, Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;

/// Terms that go with both halves of "Dual MIT/GPL".
const ACCEPTED: [&str; 6] = ["MIT", "BSD-2-Clause", "BSD-3-Clause", "Zlib", "0BSD", "ISC"];
const PACKAGE: &str = "realm-host-object";

/// Fails if a crate of the object is available under none of them.
pub fn check() -> Result {
    let mut metadata = shell::cargo();
    metadata.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", setup::TARGET]);
    let text = shell::output(&mut metadata)?;
    let metadata: Value = serde_json::from_str(&text).map_err(|error| Error::Other(error.to_string()))?;
    let refused = refused(&metadata);
    match refused.as_deref() {
        Some([]) => Ok(()),
        Some(refused) => Err(Error::Other(format!(
            "linked into the module and not available under MIT, BSD or Zlib terms: {}",
            refused.join(", ")
        ))),
        None => Err(Error::Other(format!("cargo metadata knows no {PACKAGE}"))),
    }
}

/// The crates whose code is in the object, and under other terms only; `None` if there is no object.
fn refused(metadata: &Value) -> Option<Vec<String>> {
    let packages = metadata["packages"].as_array()?;
    let nodes = metadata["resolve"]["nodes"].as_array()?;
    let package = |id: &Value| packages.iter().find(|package| package["id"] == *id);
    let root = packages.iter().find(|package| package["name"] == PACKAGE)?;
    let (mut seen, mut pending) = (BTreeSet::new(), vec![&root["id"]]);
    let mut refused = Vec::new();
    while let Some(id) = pending.pop() {
        if !seen.insert(id.to_string()) {
            continue;
        }
        let package = package(id)?;
        let kinds = package["targets"].as_array()?.iter().flat_map(|target| target["kind"].as_array());
        // A macro's code runs in the compiler; what it writes is the caller's.
        if kinds.flatten().any(|kind| kind == "proc-macro") {
            continue;
        }
        if !is_accepted(package["license"].as_str().unwrap_or_default()) {
            refused.push(format!("{} ({})", package["name"], package["license"]));
        }
        let node = nodes.iter().find(|node| node["id"] == *id)?;
        for dependency in node["deps"].as_array()? {
            let linked = |kind: &Value| kind["kind"].is_null();
            if dependency["dep_kinds"].as_array()?.iter().any(linked) {
                pending.push(&dependency["pkg"]);
            }
        }
    }
    Some(refused)
}

/// Whether an SPDX expression offers one of the accepted licences: alone, or as an alternative. What asks for several at a time
/// (AND) is for a person to look at.
fn is_accepted(expression: &str) -> bool {
    let alternatives = expression.replace('/', " OR ");
    !expression.contains(" AND ")
        && alternatives.split(" OR ").any(|license| ACCEPTED.contains(&license.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_accepted_alternative_is_enough() {
        for good in ["MIT", "MIT OR Apache-2.0", "Apache-2.0/MIT", "BSD-2-Clause OR Apache-2.0 OR MIT"] {
            assert!(is_accepted(good), "{good}");
        }
        for bad in
            ["Apache-2.0", "GPL-3.0-only", "", "MIT AND Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"]
        {
            assert!(!is_accepted(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_linked_is_looked_at_and_what_only_builds_is_not() {
        let package = |name: &str, kind: &str, license: &str| json!({ "id": name, "name": name, "license": license, "targets": [{ "kind": [kind] }] });
        let metadata = json!({
            "packages": [
                package(PACKAGE, "staticlib", "MIT"),
                package("deep", "lib", "GPL-2.0-only"),
                package("near", "lib", "MIT"),
                package("derive", "proc-macro", "Apache-2.0"),
                package("builder", "lib", "Apache-2.0"),
            ],
            "resolve": { "nodes": [
                { "id": PACKAGE, "deps": [
                    { "pkg": "near", "dep_kinds": [{ "kind": null }] },
                    { "pkg": "builder", "dep_kinds": [{ "kind": "build" }] },
                ] },
                { "id": "near", "deps": [
                    { "pkg": "deep", "dep_kinds": [{ "kind": null }] },
                    { "pkg": "derive", "dep_kinds": [{ "kind": null }] },
                ] },
                { "id": "deep", "deps": [] },
            ] },
        });
        assert_eq!(refused(&metadata), Some(vec!["\"deep\" (\"GPL-2.0-only\")".to_owned()]));
        assert_eq!(refused(&json!({})), None);
    }
}
