//! What does not belong into a report that goes to others.

use serde_json::Value;

/// What stands in the place of something left out.
const HIDDEN: &str = "hidden";
/// Objects whose keys may stay, but no value: users put there what they like.
const LABELS: [&str; 2] = ["labels", "driver_opts"];
/// What is left out whole: a command's arguments, and what it is given.
const COMMANDS: [&str; 3] = ["command", "environment", "env"];
/// A key with one of these in it has a secret.
const SECRETS: [&str; 5] = ["secret", "password", "passphrase", "token", "credential"];
/// Options that netd reads; others are kept for their users.
const OPTIONS: [&str; 2] = ["com.docker.network.", "netd."];

/// Replaces values of labels, of options that are not netd's to read, commands, environments and secrets, however deep.
pub(super) fn secrets(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(secrets),
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = key.to_ascii_lowercase();
                if LABELS.contains(&key.as_str()) {
                    hide_values(value, |_| true);
                } else if COMMANDS.contains(&key.as_str()) {
                    hide(value);
                } else if key == "options" && value.is_object() {
                    hide_values(value, |option| !OPTIONS.iter().any(|known| option.starts_with(known)));
                } else if SECRETS.iter().any(|secret| key.contains(secret)) {
                    hide(value);
                } else {
                    secrets(value);
                }
            }
        }
        _ => {}
    }
}

fn hide_values(value: &mut Value, hides: impl Fn(&str) -> bool) {
    for (_, value) in value.as_object_mut().into_iter().flatten().filter(|(key, _)| hides(key)) {
        hide(value);
    }
}

/// Hides a value that says something.
fn hide(value: &mut Value) {
    let empty = match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    if !empty {
        *value = HIDDEN.into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_users_put_there_is_hidden_and_what_netd_reads_stays() {
        let mut state = json!({
            "networks": [{
                "name": "app",
                "labels": {"owner": "alice"},
                "options": {"com.docker.network.driver.mtu": "1400", "x": "y"},
            }],
            "sandboxes": [{
                "command": ["sh", "-c", "PASSWORD=1 run"],
                "labels": {},
                "endpoints": [{"driver_opts": {"k": "v"}, "ipv4": "10.0.0.2/24"}],
                "dns": {"options": ["ndots:1"]},
            }],
            "etcd": {"api_token": "abc", "key_file": "/etc/netd/key.pem"},
        });
        secrets(&mut state);
        let wanted = json!({
            "networks": [{
                "name": "app",
                "labels": {"owner": "hidden"},
                "options": {"com.docker.network.driver.mtu": "1400", "x": "hidden"},
            }],
            "sandboxes": [{
                "command": "hidden",
                "labels": {},
                "endpoints": [{"driver_opts": {"k": "hidden"}, "ipv4": "10.0.0.2/24"}],
                "dns": {"options": ["ndots:1"]},
            }],
            "etcd": {"api_token": "hidden", "key_file": "/etc/netd/key.pem"},
        });
        assert_eq!(state, wanted);
    }
}
