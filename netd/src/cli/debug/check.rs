//! `netd debug check`: whether what is stored, the kernel and the maps agree. Works beside a daemon and without one, and changes nothing.

use std::{collections::BTreeSet, time::Duration};

use clap::Args;

use super::super::{
    Outcome,
    failure::Failure,
    output::{FormatOption, print, table},
    place::{Place, subject},
};
use crate::{
    api::{Client, Filters},
    controller::{Checked, Finding, Subject},
};

/// What an operation in flight has half done is done by the second look; what stays was found.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Exit code when something was found.
const FOUND: u8 = 1;

/// Compare what is stored with the kernel and the maps; changes nothing
///
/// What there should be is what a start of the daemon would make of the stored state. Works with the daemon running and dead,
/// in its network namespace, as root. With a daemon at work, only what two looks a second apart both find counts.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 0 when everything agrees and with 1 when not. Invariants are those of the fault model: I1 objects of the
kernel and the maps stand for what is stored, I2 nothing is had twice, I3 addresses are in their subnets, I4 programs
are on their hooks, I5 flows have both directions, I7 files and pins are whole.
Give it the options that the daemon has.

EXAMPLES:
  netd debug check
  netd debug check --format '{{.Object}}: {{.Problem}}'
  nsenter --net=/run/netns/blue netd debug check --instance blue --state-dir /var/lib/netd-blue \\
      --run-dir /run/netd-blue --bpffs /sys/fs/bpf/netd-blue")]
pub(in super::super) struct Check {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatOption,
}

impl Check {
    pub(super) async fn run(self, host: Option<&Client>, default: &Client) -> Outcome {
        let settings = self.place.settings("check the instance", host, default)?;
        let checked = look(&subject(&settings), &Client::of_run_dir(&settings.run_dir)).await?;
        let findings: Vec<&Finding> = checked.findings.iter().collect();
        if self.format.is_for_scripts() {
            self.format.print(&findings)?;
        } else if findings.is_empty() {
            let Checked { networks, sandboxes, ports, .. } = checked;
            print(&format!(
                "{networks} networks, {sandboxes} sandboxes, {ports} published ports: everything agrees\n"
            ))?;
        } else {
            let row = |finding: &&Finding| {
                [
                    finding.object.clone(),
                    finding.invariant.to_owned(),
                    finding.problem.clone(),
                    finding.hint.to_owned(),
                ]
            };
            print(&table(&["OBJECT", "INVARIANT", "PROBLEM", "HINT"], findings.iter().map(row)))?;
        }
        Ok(if findings.is_empty() { 0 } else { FOUND })
    }
}

/// Looks at an instance, and once more where its daemon may have been at work.
///
/// # Errors
/// There is nothing to look at, or the kernel does not tell.
pub(in super::super) async fn look(subject: &Subject, client: &Client) -> Result<Checked, Failure> {
    let named = |error| {
        let failure = Failure::from(error);
        Failure { message: format!("check instance {}: {}", subject.instance, failure.message), ..failure }
    };
    let mut checked = subject.check().await.map_err(named)?;
    if subject.runs && !checked.findings.is_empty() {
        tokio::time::sleep(AGAIN).await;
        let again = subject.check().await.map_err(named)?;
        let both: BTreeSet<Finding> = checked.findings.intersection(&again.findings).cloned().collect();
        checked = Checked { findings: both, ..again };
    }
    if subject.runs {
        checked.findings.extend(of_daemon(subject, client).await);
    }
    Ok(checked)
}

/// Asks the daemon whether it knows of the same objects, and whether it is content.
async fn of_daemon(subject: &Subject, client: &Client) -> Vec<Finding> {
    let finding =
        |problem: String, hint| Finding { object: "the daemon".to_owned(), invariant: "I1", problem, hint };
    let asked = async {
        let none = Filters::default();
        let known = (client.networks(&none).await?, client.sandboxes(&none).await?);
        Ok::<_, crate::api::ClientError>((client.status().await?, known))
    };
    let (status, (networks, sandboxes)) = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return vec![finding(format!("it does not answer: {error}"), "see its log")],
        Err(_) => {
            let problem = format!("it does not answer within {} s", PATIENCE.as_secs());
            return vec![finding(problem, "see its log, and whether it is stopped; traffic goes on")];
        }
    };
    let mut findings = Vec::new();
    if status.state != "ready" {
        findings.push(finding(format!("it is {}", status.state), "see its log"));
    }
    if let Ok(Some(state)) = subject.state() {
        let stored = state.networks.iter().map(|network| network.id.to_string());
        let stored: BTreeSet<String> =
            stored.chain(state.sandboxes.iter().map(|sandbox| sandbox.id.to_string())).collect();
        let told = networks.into_iter().map(|network| network.id);
        let told: BTreeSet<String> = told.chain(sandboxes.into_iter().map(|sandbox| sandbox.id)).collect();
        if stored != told && state.journal.is_none() {
            let hint = "somebody changed the state directory; a restart of the daemon takes what is stored";
            findings
                .push(finding("it knows of other networks or sandboxes than are stored".to_owned(), hint));
        }
    }
    findings
}
