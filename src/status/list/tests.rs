use serde_json::json;

use super::*;
use crate::status::draw::tests::{ADDRESS, broken, canvas, condition, plain, ready, view};

/// Returns the words of each line, separated by one space.
fn words(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Returns the lines of the table.
fn table(text: &str) -> Vec<&str> {
    text.lines().skip(1).take_while(|line| !line.is_empty()).collect()
}

fn many(services: usize) -> Vec<View> {
    let mut views: Vec<_> = (1..services).map(|_| ready()).collect();
    views.push(broken());
    views
}

#[test]
fn each_of_several_services_is_shown_on_one_line_and_problems_come_first() {
    let text = plain(&canvas(None).list(&[ready(), broken()], true));
    let expected = [
        "2 services, 1 with problems; for the remedies: status NAME".to_owned(),
        "NAMESPACE NAME STATE READY POINTS HSDIRS PUBLISHED ADDRESS".to_owned(),
        "shop mail SecretNotFound 0/2 - - never -".to_owned(),
        format!("shop web Ready 2/2 6 15/16 45s ago {ADDRESS}"),
        String::new(),
        "shop/mail SecretNotFound".to_owned(),
    ];
    assert_eq!(words(&text)[..6], expected);
    assert!(!text.contains("shop/web") && text.contains("→ restore the key's Secret"), "{text}");
    assert_eq!(plain(&canvas(None).list(&[], true)), "No OnionBalancedServices found.");
    let text = plain(&canvas(None).list(&[ready()], false));
    assert!(text.starts_with("1 service, without problems\nNAME  STATE"), "{text}");
}

#[test]
fn a_list_fits_a_terminal_of_80_columns_and_24_lines() {
    let canvas = Canvas { lines: Some(23), ..canvas(Some(80)) };
    let text = canvas.list(&many(50), false);
    assert_eq!(canvas.height(&text), 23, "{text}");
    let text = plain(&text);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    assert_eq!(lines[0], "50 services, 1 with problems; for the remedies: status NAME");
    assert!(lines[1].starts_with("NAME  STATE") && lines[1].ends_with("ADDRESS"), "{text}");
    assert!(lines[2].starts_with("mail  SecretNotFound"), "{text}");
    assert!(lines[3].ends_with("pg6mmjiy….onion"), "{text}");
    assert_eq!(lines[22], "… 30 more; -o wide shows all of them");
}

#[test]
fn a_list_on_a_large_terminal_has_all_services_whole_addresses_and_the_problems() {
    let canvas = Canvas { lines: Some(80), ..canvas(Some(200)) };
    let text = canvas.list(&many(50), true);
    assert!(canvas.height(&text) <= 80, "{text}");
    let text = plain(&text);
    assert_eq!(table(&text).len(), 51, "{text}");
    assert_eq!(text.matches(ADDRESS).count(), 49, "{text}");
    assert!(text.contains("MasterKeyReady: SecretNotFound"), "{text}");
}

#[test]
fn a_service_that_somebody_suspended_is_no_problem_of_a_list() {
    let kinds = ["Published", "Ready"];
    let suspended = kinds.map(|kind| condition(kind, "False", "Suspended", "spec.suspend is true."));
    let suspended = view("old", &json!({"observedGeneration": 2, "conditions": suspended}));
    let text = plain(&canvas(None).list(&[suspended, ready(), broken()], false));
    let first = words(&text).into_iter().take(5).map(|line| line.chars().take(14).collect::<String>());
    assert_eq!(
        first.collect::<Vec<_>>(),
        ["3 services, 1 ", "NAME STATE REA", "mail SecretNot", "old Suspended ", "web Ready 2/2 "]
    );
    assert!(!text.contains("shop/old"), "{text}");
}

#[test]
fn problems_that_do_not_fit_are_left_out_whole() {
    let canvas = Canvas { lines: Some(10), ..canvas(Some(80)) };
    let text = plain(&canvas.list(&[broken(), ready()], true));
    assert_eq!((text.lines().count(), text.contains("MasterKeyReady")), (4, false), "{text}");
}

#[test]
fn a_narrow_terminal_loses_columns_before_names() {
    let text = |width| plain(&canvas(Some(width)).list(&[broken(), ready()], true));
    let header = |width| words(&text(width))[1].clone();
    assert_eq!(header(82), "NAMESPACE NAME STATE READY POINTS HSDIRS PUBLISHED ADDRESS");
    assert_eq!(header(80), "NAMESPACE NAME STATE READY POINTS HSDIRS PUBLISHED");
    assert_eq!(header(60), "NAMESPACE NAME STATE READY POINTS HSDIRS");
    assert_eq!(header(50), "NAMESPACE NAME STATE READY POINTS");
    assert_eq!(header(40), "NAMESPACE NAME STATE READY");
    for width in [40, 50, 60, 80, 82, 130] {
        assert!(table(&text(width)).iter().all(|line| line.chars().count() <= width.into()), "{}", text(width));
    }
}

#[test]
fn long_names_are_shortened_only_if_needed() {
    let name = "a-service-with-the-longest-name-that-anybody-will-ever-choose-1";
    let views = [view(name, &json!({"observedGeneration": 2, "ready": "0/2"}))];
    let text = plain(&canvas(Some(80)).list(&views, true));
    let row = table(&text)[1];
    assert!(row.contains("a-service-with-the-") && row.contains('…') && row.chars().count() <= 80, "{text}");
    let wide = plain(&canvas(None).list(&views, true));
    assert!(wide.contains(name), "{wide}");
}
