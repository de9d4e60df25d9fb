//! Rung: soak (reliability 7.7, F30): churn, kills, probes and attackers for as long as wanted; `cargo xtask soak`.

use std::{fs, time::Duration};

use netd_tests::soak::{Settings, run};

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
#[ignore = "takes minutes: `cargo xtask soak`"]
fn whatever_comes_and_goes_and_whoever_is_killed_all_is_back_where_it_was() {
    let settings = Settings {
        duration: Duration::from_secs(number("NETD_SOAK_SECONDS", 60)),
        seed: number("NETD_SOAK_SEED", 1),
    };
    let outcome = run(settings);
    if let Ok(path) = std::env::var("NETD_SOAK_REPORT") {
        fs::write(path, format!("{:#}\n", outcome.json())).expect("write the report");
    }
    assert!(outcome.wrong.is_empty(), "{:#?}", outcome.wrong);
}
