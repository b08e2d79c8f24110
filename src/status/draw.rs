//! Renders services as text, without any IO.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::view::{Problem, View};
use crate::crd::{BackendState, ConditionType, OnionBalancedServiceStatus, ProbeResult, VanguardsStatus};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const UNSURE: Style = AnsiColor::Yellow.on_default().bold();
const STRONG: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// The parameters for rendering services.
#[derive(Debug, Clone, Copy)]
pub struct Canvas {
    /// The current time, from which ages are computed.
    pub now: Timestamp,
    /// The width of the terminal in columns. None means that it is unlimited.
    pub width: Option<u16>,
    /// The number of lines on which a list should fit. None means that it is unlimited.
    pub lines: Option<usize>,
}

impl Canvas {
    /// Renders one service in full, its problems first. The text contains escape sequences for
    /// colours.
    pub fn service(&self, view: &View) -> String {
        let mut text = headline(view);
        let found = view.problems();
        text.push_str(&problems(&found));
        if !found.is_empty() {
            text.push('\n');
        }
        if let Some(status) = view.status() {
            let address = status.onion_address.as_deref().unwrap_or("none yet");
            let _ = writeln!(text, "  address   {address}");
            if let Some(exposed) = exposed(status) {
                let _ = writeln!(text, "  location  {UNSURE}{exposed}{UNSURE:#}");
            }
            let _ = writeln!(text, "  backends  {}", backends_in_a_word(status));
            let _ = writeln!(text, "  published {}", self.published_in_a_word(status));
            if let Some(kits) = signing_kits(status) {
                let _ = writeln!(text, "  kits      {kits}");
            }
            if is_probed(status) {
                let _ = writeln!(text, "  probed    {}", self.probed_in_a_word(status));
            }
            if let Some(guards) = guards_in_a_word(status) {
                let _ = writeln!(text, "  guards    {guards}");
            }
            if let Some(vanguards) = vanguards_in_a_word(status) {
                let _ = writeln!(text, "  vanguards {vanguards}");
            }
            if !status.backends.is_empty() {
                let _ = writeln!(text, "\n{}", self.backends(status));
            }
            if !status.published.is_empty() {
                let _ = writeln!(text, "\n{}", self.periods(status));
            }
        }
        text
    }

    fn backends(&self, status: &OnionBalancedServiceStatus) -> String {
        let mut table = self.table(&["BACKEND", "STATE", "POINTS", "SINCE", "REMARK"]);
        for backend in &status.backends {
            table.add_row([
                backend.name.clone(),
                format!("{:?}", backend.state),
                backend.introduction_points.to_string(),
                self.age(backend.since.0),
                backend.message.clone().unwrap_or_default(),
            ]);
        }
        align_right(&mut table, &[2]);
        table.trim_fmt()
    }

    fn periods(&self, status: &OnionBalancedServiceStatus) -> String {
        let mut table = self.table(&["TIME PERIOD", "POINTS", "HSDIRS", "PUBLISHED", "REVISION", "OPEN TO"]);
        for period in &status.published {
            let open_to =
                period.authorized_clients.map_or_else(|| "all".to_owned(), |count| format!("{count} clients"));
            table.add_row([
                period.time_period.to_string(),
                period.introduction_points.to_string(),
                format!("{}/{}", period.hsdirs_accepted, period.hsdirs_total),
                format!("{} ago", self.age(period.last_published.0)),
                period.revision_counter.to_string(),
                open_to,
            ]);
        }
        align_right(&mut table, &[1, 2, 4]);
        table.trim_fmt()
    }

    fn published_in_a_word(&self, status: &OnionBalancedServiceStatus) -> String {
        let Some(newest) = newest(status) else { return "never".to_owned() };
        let (accepted, total) = hsdirs(status);
        format!("{} ago, on {accepted} of {total} HSDirs", self.age(newest))
    }

    /// Names the result of the last probe of each port, and its age.
    fn probed_in_a_word(&self, status: &OnionBalancedServiceStatus) -> String {
        let word = |result: ProbeResult| match result {
            ProbeResult::Answered => "answers",
            ProbeResult::DescriptorFailed => "no descriptor",
            ProbeResult::IntroductionFailed => "no introduction",
            ProbeResult::RendezvousFailed => "no rendezvous",
            ProbeResult::TargetFailed => "no answer from the target",
            ProbeResult::NotMade => "not probed",
        };
        let ports = status
            .probes
            .iter()
            .map(|probe| format!("port {}: {} (since {})", probe.port, word(probe.result), self.age(probe.since.0)));
        ports.collect::<Vec<_>>().join(", ")
    }

    fn table(&self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table
    }

    /// Formats an age as kubectl does: in a single unit, such as `12h`, or in two units if the
    /// number of the larger unit is below ten, such as `3h20m`.
    pub(super) fn age(&self, since: Timestamp) -> String {
        let seconds = self.now.duration_since(since).as_secs().max(0);
        let (days, hours, minutes) = (seconds / 86400, seconds / 3600, seconds / 60);
        match (days, hours, minutes) {
            (10.., _, _) => format!("{days}d"),
            (1.., _, _) => format!("{days}d{}h", hours % 24),
            (_, 10.., _) => format!("{hours}h"),
            (_, 1.., _) => format!("{hours}h{}m", minutes % 60),
            (_, _, 10..) => format!("{minutes}m"),
            (_, _, 1..) => format!("{minutes}m{}s", seconds % 60),
            _ => format!("{seconds}s"),
        }
    }
}

/// Returns the message about the signing kits of a delegated service while they cover it.
/// Otherwise, the message is among the problems.
fn signing_kits(status: &OnionBalancedServiceStatus) -> Option<&str> {
    let kind = ConditionType::SigningKeysReady.as_str();
    let found = status.conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")?;
    Some(&found.message)
}

/// Returns the message about servers whose location is not hidden.
fn exposed(status: &OnionBalancedServiceStatus) -> Option<&str> {
    let kind = ConditionType::LocationExposed.as_str();
    status.conditions.iter().find(|condition| condition.type_ == kind).map(|condition| &*condition.message)
}

/// Returns true if there are results of probes that are still of interest. The results of a
/// suspended service remain in the status, because no publisher removes them.
fn is_probed(status: &OnionBalancedServiceStatus) -> bool {
    let kind = ConditionType::Reachable.as_str();
    !status.probes.is_empty() && status.conditions.iter().any(|condition| condition.type_ == kind)
}

/// Names the number of guards that the pods use and share. Returns None if they share none.
fn guards_in_a_word(status: &OnionBalancedServiceStatus) -> Option<String> {
    let kind = ConditionType::GuardsShared.as_str();
    let guards = status.guards.as_ref().filter(|_| status.conditions.iter().any(|found| found.type_ == kind))?;
    let mut text = format!("{} in use, {} shared", guards.in_use, guards.shared);
    if guards.unlisted > 0 {
        let _ = write!(text, ", {} of them not in the consensus", guards.unlisted);
    }
    Some(text)
}

/// Names the number of vanguards in each layer, and of backends that do not use them. Returns None
/// if the pods share none. No publisher removes the report of a suspended service.
fn vanguards_in_a_word(status: &OnionBalancedServiceStatus) -> Option<String> {
    let is_reported =
        |found: &Condition| found.type_ == ConditionType::Published.as_str() && found.reason != "Suspended";
    let VanguardsStatus { second_hop, third_hop, outdated } =
        status.vanguards.filter(|_| status.conditions.iter().any(is_reported))?;
    let mut text = match (second_hop, third_hop) {
        (0, 0) => "none chosen yet".to_owned(),
        _ => format!("{second_hop} at the second and {third_hop} at the third hop"),
    };
    match outdated {
        0 => {}
        1 => text.push_str("; 1 backend does not use them"),
        _ => _ = write!(text, "; {outdated} backends do not use them"),
    }
    Some(text)
}

pub(super) fn headline(view: &View) -> String {
    let style = match view.state() {
        _ if view.is_ready() => GOOD,
        "Pending" | "Progressing" | "RollingOut" | "NotPublished" | "Generating" | "Suspended" => UNSURE,
        _ => BAD,
    };
    format!("{STRONG}{}/{}{STRONG:#}  {style}{}{style:#}\n", view.namespace, view.name, view.state())
}

pub(super) fn problems(problems: &[Problem]) -> String {
    let mut text = String::new();
    for Problem { kind, status, reason, message, action } in problems {
        let style = if status == "Unknown" { UNSURE } else { BAD };
        let _ = writeln!(text, "\n{style}{kind}: {reason}{style:#}\n  {message}");
        if let Some(action) = action {
            let _ = writeln!(text, "  {DIM}→ {action}{DIM:#}");
        }
    }
    text
}

fn backends_in_a_word(status: &OnionBalancedServiceStatus) -> String {
    let mut text = format!("{} ready", status.ready.as_deref().unwrap_or("0/0"));
    for (state, word) in [
        (BackendState::Starting, "starting"),
        (BackendState::Waiting, "waiting for their turn"),
        (BackendState::Excluded, "excluded"),
        (BackendState::Unhealthy, "unhealthy"),
        (BackendState::Draining, "draining"),
        (BackendState::Lost, "lost"),
    ] {
        let count = status.backends.iter().filter(|backend| backend.state == state).count();
        if count > 0 {
            let _ = write!(text, ", {count} {word}");
        }
    }
    if let Some(points) = points(status) {
        let _ = write!(text, "; {points} introduction points");
    }
    text
}

/// Returns the number of published introduction points, in whichever time period has fewer.
pub(super) fn points(status: &OnionBalancedServiceStatus) -> Option<u32> {
    status.published.iter().map(|period| period.introduction_points).min()
}

pub(super) fn hsdirs(status: &OnionBalancedServiceStatus) -> (u32, u32) {
    let add = |(accepted, total): (u32, u32), period: &crate::crd::PublishedStatus| {
        (accepted.saturating_add(period.hsdirs_accepted), total.saturating_add(period.hsdirs_total))
    };
    status.published.iter().fold((0, 0), add)
}

pub(super) fn newest(status: &OnionBalancedServiceStatus) -> Option<Timestamp> {
    status.published.iter().map(|period| period.last_published.0).max()
}

fn align_right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

#[cfg(test)]
pub mod tests;
