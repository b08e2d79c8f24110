//! Fuzzes the lines about guards in tor's state file, and the merge of a report into the shared
//! sample. The fuzzed text is a shared sample and a report, separated by a NUL character. A text
//! that consists of vanguards is read as such.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onionbalance_operator::link::{GuardReports, GuardSample, Vanguards};

/// A time in the year 2026, in seconds since the Unix epoch.
const NOW: u64 = 1_790_000_000;

fuzz_target!(|text: &str| {
    if let Ok(vanguards) = Vanguards::parse(text) {
        assert_eq!(Vanguards::parse(&vanguards.to_string()), Ok(vanguards));
        return;
    }
    let (shared, report) = text.split_once('\0').unwrap_or((text, ""));
    let Ok(shared) = GuardSample::parse(shared) else { return };
    assert_eq!(GuardSample::parse(&shared.to_string()), Ok(shared.clone()));
    let Ok(report) = GuardSample::parse(report) else { return };
    let plain = shared.merged(GuardReports::default(), NOW);
    let by_agent = shared.merged(GuardReports { own: None, agents: &[&report] }, NOW);
    assert_eq!(plain.guards().len(), by_agent.guards().len());
    for (old, new) in plain.guards().iter().zip(by_agent.guards()) {
        assert_eq!((old.identity, old.sampled_on), (new.identity, new.sampled_on));
    }
    let reports = GuardReports { own: Some(&report), agents: &[] };
    let merged = shared.merged(reports, NOW);
    assert_eq!(merged.merged(reports, NOW), merged);
});
