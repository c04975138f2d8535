//! Decides from the hellos of two processes whether they belong to one group.

use super::wire::{Code, Hello, Refuse};
use crate::config::{Config, Member};
use crate::error::Error;
use crate::types::MemberId;

/// The text shown for a missing key.
const NOT_SET: &str = "(not set)";

/// Why a hello is not accepted: the refusal for the other end, and the error that ends our own meeting, if any.
pub(super) struct Denial {
    pub(super) refuse: Refuse,
    pub(super) fatal: Option<Error>,
}

/// The hello of this process.
pub(super) fn our_hello(config: &Config, member: MemberId, incarnation: u64) -> Hello {
    let (group, agreed) = (config.group.clone(), config.agreed_by_founders());
    Hello { group, view: 0, member, incarnation, agreed, former: Vec::new() }
}

/// The first key on which two configurations differ, with both values.
pub(crate) fn difference(ours: &[(String, String)], theirs: &[(String, String)]) -> Option<(String, String, String)> {
    let keys = ours.iter().chain(theirs).map(|(key, _)| key);
    keys.map(|key| (key.clone(), value_of(ours, key), value_of(theirs, key))).find(|(_, ours, theirs)| ours != theirs)
}

/// Checks the hello of a process that connected to us; returns its rank if it belongs here.
pub(super) fn connector(config: &Config, rank: usize, ours: &Hello, theirs: &Hello) -> Result<usize, Box<Denial>> {
    let stranger = |code, reason: String| Err(deny(ours, code, reason));
    if theirs.group != ours.group {
        let mut denial = deny(ours, Code::Disagreement, format!("this is group {:?}", ours.group));
        denial.refuse.key = "group".into();
        denial.refuse.value.clone_from(&ours.group);
        return Err(denial);
    }
    if let Some(denial) = same_configuration(ours, theirs) {
        return Err(denial);
    }
    let found = config.members.iter().position(|m| m.id == theirs.member);
    match found {
        None => stranger(Code::Unexpected, format!("member {} is not listed in `members`", theirs.member)),
        Some(r) if r <= rank => {
            stranger(Code::Unexpected, format!("member {} is not expected to connect to this one", theirs.member))
        }
        Some(r) => Ok(r),
    }
}

/// Checks the hello that answered ours at the address of `expected`.
pub(super) fn acceptor(expected: &Member, ours: &Hello, theirs: &Hello) -> Result<(), Box<Denial>> {
    if theirs.group != ours.group {
        let mut denial = deny(ours, Code::Disagreement, format!("this is group {:?}", ours.group));
        denial.fatal = Some(Error::Disagreement {
            member: expected.id,
            key: "group".into(),
            ours: ours.group.clone(),
            theirs: theirs.group.clone(),
        });
        return Err(denial);
    }
    if let Some(denial) = same_configuration(ours, theirs) {
        return Err(denial);
    }
    if theirs.member != expected.id {
        let reason = wrong_member(expected, theirs.member);
        let mut denial = deny(ours, Code::Unexpected, format!("member {} was expected here", expected.id));
        denial.fatal = Some(Error::Refused { member: expected.id, reason });
        return Err(denial);
    }
    Ok(())
}

/// The error that ends our meeting when the process at the address of `expected` refuses us.
pub(super) fn refusal(expected: &Member, ours: &Hello, refuse: &Refuse) -> Error {
    if refuse.code == Code::Disagreement {
        let value = match refuse.key.as_str() {
            "group" => ours.group.clone(),
            "view" => ours.view.to_string(),
            key => value_of(&ours.agreed, key),
        };
        let (key, theirs) = (refuse.key.clone(), refuse.value.clone());
        return Error::Disagreement { member: expected.id, key, ours: value, theirs };
    }
    if refuse.code == Code::Running {
        return Error::AlreadyRuns { member: refuse.member };
    }
    let mut reason = refuse.reason.clone();
    // A process of another version may number its members differently.
    if refuse.member != expected.id && refuse.code != Code::Version {
        reason = format!("{}; its reason: {reason}", wrong_member(expected, refuse.member));
    }
    Error::Refused { member: expected.id, reason }
}

/// A refusal by this process.
pub(super) fn deny(ours: &Hello, code: Code, reason: String) -> Box<Denial> {
    let refuse = Refuse { code, member: ours.member, key: String::new(), value: String::new(), reason };
    Box::new(Denial { refuse, fatal: None })
}

fn same_configuration(ours: &Hello, theirs: &Hello) -> Option<Box<Denial>> {
    let (key, our_value, their_value) = difference(&ours.agreed, &theirs.agreed).or_else(|| {
        (ours.view != theirs.view).then(|| ("view".into(), ours.view.to_string(), theirs.view.to_string()))
    })?;
    let mut denial = deny(ours, Code::Disagreement, "the configurations differ".into());
    denial.refuse.key.clone_from(&key);
    denial.refuse.value.clone_from(&our_value);
    denial.fatal = Some(Error::Disagreement { member: theirs.member, key, ours: our_value, theirs: their_value });
    Some(denial)
}

/// The value of a key in a configuration, as text for a human.
pub(crate) fn value_of(pairs: &[(String, String)], key: &str) -> String {
    pairs.iter().find(|(k, _)| k == key).map_or_else(|| NOT_SET.to_owned(), |(_, value)| value.clone())
}

fn wrong_member(expected: &Member, found: MemberId) -> String {
    format!(
        "member {found} answers at {}, the address of member {}: correct the addresses in `members`",
        expected.address, expected.id
    )
}
