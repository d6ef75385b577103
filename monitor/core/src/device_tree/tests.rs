use super::*;

/// Builds a tree from a list of tokens: `Ok((name, value))` is a property, `Err("name")` begins a node, `Err("")` ends it.
fn build(tokens: &[Result<(&str, &[u8]), &str>]) -> Vec<u8> {
    let mut structure = Vec::new();
    let mut strings = Vec::new();
    let word = |to: &mut Vec<u8>, word: u32| to.extend(word.to_be_bytes());
    let mut root = true;
    for token in tokens {
        match token {
            Err("") if !root => word(&mut structure, END_NODE),
            Err(name) => {
                root = false;
                word(&mut structure, BEGIN_NODE);
                structure.extend(name.as_bytes());
                structure.push(0);
            }
            Ok((name, value)) => {
                word(&mut structure, PROP);
                word(&mut structure, value.len() as u32);
                word(&mut structure, strings.len() as u32);
                strings.extend(name.as_bytes());
                strings.push(0);
                structure.extend(*value);
            }
        }
        structure.resize(structure.len().next_multiple_of(4), 0);
    }
    word(&mut structure, END);
    let mut bytes = Vec::new();
    let start = HEADER_SIZE + 16;
    let sizes = [
        start + structure.len() + strings.len(),
        start,
        start + structure.len(),
        HEADER_SIZE,
        17,
        16,
        0,
        strings.len(),
        structure.len(),
    ];
    word(&mut bytes, MAGIC);
    for size in sizes {
        word(&mut bytes, size as u32);
    }
    bytes.extend([0; 16]);
    bytes.extend(structure);
    bytes.extend(strings);
    bytes
}

fn reg(base: u64, size: u64) -> Vec<u8> {
    [base.to_be_bytes(), size.to_be_bytes()].concat()
}

fn board_tree() -> Vec<u8> {
    let high = reg(0x8_0000_0000, 0x4000_0000);
    let low = reg(0x4000_0000, 0x8000_0000);
    let secure = reg(0x0e00_0000, 0x0100_0000);
    build(&[
        Err(""),
        Ok(("#address-cells", &[0, 0, 0, 2])),
        Ok(("#size-cells", &[0, 0, 0, 2])),
        Err("memory@800000000"),
        Ok(("device_type", b"memory\0")),
        Ok(("reg", &high)),
        Err(""),
        Err("memory@40000000"),
        Ok(("device_type", b"memory\0")),
        Ok(("reg", &low)),
        Err(""),
        Err("secram@e000000"),
        Ok(("secure-status", b"okay\0")),
        Ok(("status", b"disabled\0")),
        Ok(("device_type", b"memory\0")),
        Ok(("reg", &secure)),
        Err("inner"),
        Err(""),
        Err(""),
        Err("psci"),
        Ok(("method", b"hvc\0")),
        Err(""),
        Err("cpus"),
        Err("cpu-map"),
        Err(""),
        Err("cpu@0"),
        Ok(("enable-method", b"spin-table\0")),
        Err(""),
        Err("cpu@1"),
        Err(""),
        Err(""),
        Err("chosen"),
        Err(""),
        Err(""),
    ])
}

/// The tree as text: paths of nodes, and properties as `path:name=value`.
fn text(tree: &Tree<'_>) -> Vec<String> {
    let mut path = Vec::new();
    let mut lines = Vec::new();
    for token in tree.tokens() {
        match token {
            Token::Begin { name } => {
                path.push(String::from_utf8_lossy(name).into_owned());
                lines.push(path.join("/"));
            }
            Token::End => {
                path.pop();
            }
            Token::Prop { name, value, .. } => lines.push(format!(
                "{}:{}={}",
                path.join("/"),
                String::from_utf8_lossy(name),
                value.escape_ascii()
            )),
        }
    }
    lines
}

#[test]
fn memory_of_the_non_secure_world_is_found_in_order() {
    let bytes = board_tree();
    let board = Tree::new(&bytes).and_then(|tree| tree.board()).expect("a board");
    assert_eq!(board.banks(), [Range::new(0x4000_0000, 0x8000_0000), Range::new(0x8_0000_0000, 0x4000_0000)]);
    assert_eq!(board.cpus, 2);
}

#[test]
fn the_non_secure_world_sees_psci_and_reserved_memory_and_nothing_secure() {
    let bytes = board_tree();
    let tree = Tree::new(&bytes).expect("a tree");
    let mut out = vec![0; 4096];
    let size = edit(&tree, &[("rmm", Range::new(0x4010_0000, 0x180_0000))], &mut out).expect("room");
    let edited = Tree::new(&out[..size]).expect("a tree");
    let text = text(&edited);
    for line in [
        "/cpus/cpu@0:enable-method=psci\\x00",
        "/cpus/cpu@1:enable-method=psci\\x00",
        "/psci:method=smc\\x00",
        "/psci:compatible=arm,psci-1.0\\x00arm,psci-0.2\\x00",
        "/reserved-memory/rmm@40100000:no-map=",
        "/reserved-memory/rmm@40100000:reg=\\x00\\x00\\x00\\x00@\\x10\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x80\\x00\\x00",
        "/chosen",
        "/cpus/cpu-map",
    ] {
        assert_eq!(text.iter().filter(|found| *found == line).count(), 1, "{line} in {text:#?}");
    }
    assert!(!text.iter().any(|line| line.contains("secram") || line.contains("hvc")), "{text:#?}");
    assert!(!text.iter().any(|line| line.contains("spin-table")), "{text:#?}");
    assert_eq!(edited.board(), tree.board());
}

#[test]
fn a_small_buffer_is_told() {
    let bytes = board_tree();
    let tree = Tree::new(&bytes).expect("a tree");
    for size in [0, 39, 60, bytes.len()] {
        assert_eq!(edit(&tree, &[], &mut vec![0; size]), Err(EditError::NoRoom));
    }
}

#[test]
fn a_broken_tree_is_refused_wherever_it_ends() {
    let bytes = board_tree();
    for len in 0..bytes.len() {
        assert!(Tree::new(&bytes[..len]).is_err(), "{len}");
    }
    let structure = HEADER_SIZE + 16;
    for at in (structure..bytes.len() - 40).step_by(4) {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].fill(0xff);
        // Whatever it says, it says it without a panic.
        let _ = Tree::new(&bytes).and_then(|tree| tree.board());
        let _ = Tree::new(&bytes).map(|tree| edit(&tree, &[], &mut vec![0; 8192]));
    }
}

#[test]
fn nodes_of_memory_next_to_each_other_are_one_bank() {
    const GIB: u64 = 1 << 30;
    let mut board = Board::new(&[], 1).expect("no banks");
    // More than there is room for, in no order; the last fills the gap between two.
    let nodes: Vec<u8> =
        [3, 0, 9, 1, 4, 5, 6, 7, 10, 8, 20, 2].iter().flat_map(|n| reg(n * GIB, GIB)).collect();
    board.add_banks(&nodes, (2, 2)).expect("three banks at most");
    assert_eq!(board.banks(), [Range::new(0, 11 * GIB), Range::new(20 * GIB, GIB)]);
    let apart: Vec<u8> = (0..=MAX_BANKS as u64).flat_map(|n| reg(2 * n * GIB, GIB)).collect();
    assert_eq!(Board::new(&[], 1).expect("no banks").add_banks(&apart, (2, 2)), Err(TreeError::Banks));
}
