//! Tests of parsing and formatting a `config.yaml`.

use super::*;

const A: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid";
const B: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

fn error(text: &str) -> String {
    Config::parse(text).unwrap_err().to_string()
}

/// The file has the layout that Python Onionbalance's generator writes.
#[test]
fn parses_the_file_of_python_onionbalance() {
    let text = format!(
        "# Onionbalance Config File\nservices:\n- instances:\n  - address: {A}\n    name: node1\n  - address: {B}\n    \
         name: node2\n  key: x.key\n- instances:\n  - {{address: {B}}}\n  key: /etc/onionbalance/y.key\n\
         status-socket-location: /run/onionbalance/control\n"
    );
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.status_socket, Some("/run/onionbalance/control".into()));
    assert_eq!(config.services.len(), 2);
    assert_eq!(config.services[0].key, PathBuf::from("x.key"));
    let [first, second] = config.services[0].instances.as_slice() else { panic!("{config:?}") };
    assert_eq!((first.address, first.name.as_deref()), (A.parse().unwrap(), Some("node1")));
    assert_eq!((second.address, second.name.as_deref()), (B.parse().unwrap(), Some("node2")));
    assert_eq!(config.services[1].instances[0].name, None);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn warns_about_ignored_settings() {
    let text = format!(
        "refresh: 5\nservices:\n- key: k\n  tags: 1\n  instances: [{{address: {A}, port: 1, name: 7}}, {{address: {A}}}]\n"
    );
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.services[0].instances.len(), 1);
    assert_eq!(config.services[0].instances[0].name.as_deref(), Some("7"));
    let mut warnings = config.warnings;
    warnings.sort();
    let unknown = |field: &str| format!("{field}: unknown setting, ignored");
    assert_eq!(
        warnings,
        [
            unknown("refresh"),
            unknown("services[0].instances[0].port"),
            format!("services[0].instances[1]: {A}.onion is already listed; the duplicate is ignored"),
            unknown("services[0].tags"),
        ]
    );
}

#[test]
fn errors_name_the_field() {
    assert!(error("").starts_with("services: the file is empty"));
    assert!(error("# nothing\n").starts_with("services: the file is empty"));
    assert!(error("- 1").starts_with("services: the file must be a mapping"));
    assert!(error("a: [").starts_with("not valid YAML: "));
    assert!(error("a: 1").starts_with("services: is missing"));
    assert!(error("services: []").starts_with("services: is empty"));
    assert!(error("services: 1").starts_with("services: must be a list"));
    assert!(error("services: [1]").starts_with("services[0]: must be a mapping"));
    assert!(error("services: [{instances: []}]").starts_with("services[0].key: is missing; it must be the path"));
    assert!(error("services: [{key: [k], instances: []}]").starts_with("services[0].key: must be the path"));
    assert!(error("services: [{key: k}]").starts_with("services[0].instances: is missing"));
    assert!(error("services: [{key: k, instances: []}]").starts_with("services[0].instances: is empty"));
    let instance = |text: &str| error(&format!("services: [{{key: k, instances: [{text}]}}]"));
    assert!(instance("{name: x}").starts_with("services[0].instances[0].address: is missing"));
    assert!(instance("{address: }").starts_with("services[0].instances[0].address: is missing"));
    assert!(instance("{address: 5}").starts_with("services[0].instances[0].address: 5 is not an onion address"));
    assert!(
        instance(&format!("{{address: '{PLACEHOLDER}'}}"))
            .contains("address: still contains the generator's placeholder")
    );
    let mistyped = A.replacen('2', "3", 1);
    assert!(
        instance(&format!("{{address: {mistyped}}}")).contains("is not an onion address: "),
        "{}",
        instance(&mistyped)
    );
    let socket = format!("services: [{{key: k, instances: [{{address: {A}}}]}}]\nstatus-socket-location: 5");
    assert!(error(&socket).starts_with("status-socket-location: must be a path"));
}

/// Python's YAML library, and therefore Python Onionbalance, accepts all of these.
#[test]
fn accepts_every_notation_that_python_onionbalance_accepts() {
    let plain = format!("services:\n- key: k\n  instances:\n  - address: {A}\n");
    for (notation, text) in [
        ("byte order mark", format!("\u{feff}{plain}")),
        ("line ends of Windows", plain.replace('\n', "\r\n")),
        ("document markers", format!("%YAML 1.1\n---\n{plain}...\n")),
        ("comments", plain.replace('\n', " # a comment\n")),
        ("quotes", plain.replace("key: k", "key: 'k'").replace(A, &format!("\"{A}\""))),
        ("spaces at the end", plain.replace('\n', "  \n")),
        ("anchor", format!("all: &all\n- address: {A}\nservices:\n- {{key: k, instances: *all}}\n")),
        ("merge key", format!("all: &all\n  instances: [{{address: {A}}}]\nservices:\n- <<: *all\n  key: k\n")),
        ("JSON", format!("{{\"services\": [{{\"key\": \"k\", \"instances\": [{{\"address\": \"{A}\"}}]}}]}}")),
        ("a key that is set twice", format!("services: [{{key: other, instances: []}}]\n{plain}")),
        ("an inner key that is set twice", plain.replace("- key: k", "- key: other\n  key: k")),
    ] {
        let config = Config::parse(&text).unwrap_or_else(|error| panic!("{notation}: {error}"));
        assert_eq!(config.services.len(), 1, "{notation}");
        assert_eq!(config.services[0].key, PathBuf::from("k"), "{notation}");
        assert_eq!(config.services[0].instances[0].address, A.parse().unwrap(), "{notation}");
        let twice = config.warnings.iter().any(|warning| warning.contains("; the last value is used"));
        assert_eq!(twice, notation.contains("twice"), "{notation}: {:?}", config.warnings);
    }
}

#[test]
fn errors_in_the_notation_use_the_words_of_users() {
    let plain = format!("services:\n- key: k\n  instances:\n  - address: {A}\n");
    for (text, expected) in [
        (format!("{plain}---\n{plain}"), "services: the file has a second YAML document (line "),
        (plain.replace("  - address", "\t- address"), "not valid YAML: "),
        (
            plain.replace("key: k", "key:\u{a0}k"),
            "; line 2 contains a no-break space (U+00A0); replace it with a space",
        ),
        (plain.replace("key: k", "key: [k"), "not valid YAML: "),
        // Such a space becomes a part of a name or a value, so the notation is right.
        (plain.replace("  instances", "\u{a0} instances"), "; line 3 contains a no-break space (U+00A0); replace"),
        (plain.replace("address: ", "address:\u{a0}"), "; line 4 contains a no-break space (U+00A0); replace it with"),
    ] {
        let error = error(&text);
        assert!(error.contains(expected), "{error}");
        for word in ["Options", "Policy", "from_str", "serde", "\n"] {
            assert!(!error.contains(word), "{word}: {error}");
        }
    }
}

#[test]
fn an_empty_status_socket_is_none() {
    let text = format!("services: [{{key: k, instances: [{{address: {A}}}]}}]\nstatus-socket-location: ''\n");
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.status_socket, None);
    let expected = "status-socket-location: is empty, so there is no status socket; remove the setting";
    assert_eq!(config.warnings, [expected]);
}

#[test]
fn each_instance_may_have_a_limit() {
    let config = |limit: &str| {
        Config::parse(&format!(
            "services: [{{key: k, instances: [{{address: {A}, max-introduction-points: {limit}}}]}}]"
        ))
    };
    for (limit, expected) in [("", None), ("1", Some(1)), ("20", Some(20))] {
        assert_eq!(config(limit).unwrap().services[0].instances[0].max_introduction_points, expected);
    }
    for limit in ["0", "21", "-1", "3.5", "many"] {
        let error = config(limit).unwrap_err().to_string();
        let expected = "services[0].instances[0].max-introduction-points: must be a number from 1 to 20; ";
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn parses_the_file_that_it_writes() {
    let instances = vec![(A.to_owned(), "node: 1".to_owned()), (B.to_owned(), "#2".to_owned())];
    let text = write(&[("x y.key".to_owned(), instances)]);
    assert!(text.starts_with("# Onionbalance Config File\nservices:\n"), "{text}");
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.services[0].key, PathBuf::from("x y.key"));
    let names: Vec<_> = config.services[0].instances.iter().map(|one| one.name.clone().unwrap()).collect();
    assert_eq!(names, ["node: 1", "#2"]);

    let open = write(&[("x.key".to_owned(), vec![(PLACEHOLDER.to_owned(), "node1".to_owned())])]);
    assert!(Config::parse(&open).unwrap_err().to_string().contains("services[0].instances[0].address: still contains"));
}

/// The layout is that of `onionbalance-config` 0.2.4. For the last three names, Python chooses
/// other quotes or none.
#[test]
fn writes_the_layout_that_python_writes() {
    let names = ["1", "node2", "web-3", "my node4", "it's 5", "n\u{fc}6"];
    let instances = names.map(|name| (PLACEHOLDER.to_owned(), name.to_owned())).to_vec();
    let quoted = ["'1'", "node2", "web-3", "'my node4'", "'it''s 5'", "\"n\u{fc}6\""];
    let expected: String =
        quoted.map(|name| format!("  - address: <Enter the instance onion address here>\n    name: {name}\n")).concat();
    let text = write(&[(format!("{A}.key"), instances)]);
    assert_eq!(text, format!("# Onionbalance Config File\nservices:\n- instances:\n{expected}  key: {A}.key\n"));
    let filled = Config::parse(&text.replace(PLACEHOLDER, A));
    assert_eq!(filled.unwrap().services[0].instances[0].name.as_deref(), Some("1"));
}

#[test]
fn a_scalar_that_is_no_text_gets_quotes() {
    for name in ["0x1f", "1e5", "12:30", "1.5", "Yes", "null", "-node", "", "~"] {
        let text = write(&[("x.key".to_owned(), vec![(A.to_owned(), name.to_owned())])]);
        assert!(text.contains(&format!("    name: '{name}'\n")), "{text}");
        assert_eq!(Config::parse(&text).unwrap().services[0].instances[0].name.as_deref(), Some(name));
    }
}
