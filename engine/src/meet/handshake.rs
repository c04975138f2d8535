//! The handshake: the reactions to a connection's readiness and messages.

use super::check::{self, Denial};
use super::dial::RETRY_AFTER_ANSWER_TIME;
use super::meeting::Meeting;
use super::talk::{Broken, HANDSHAKE_TIME, Stage, Talk};
use super::wire::{Code, Garbage, Hello, Message, Refuse};
use crate::error::Error;
use std::time::Instant;

/// The next step of a connection.
enum Next {
    /// It waits for the other end.
    Wait,
    /// It continues at once.
    Go,
    /// It has become a link.
    Established { rank: usize, incarnation: u64 },
    /// It is finished.
    Over,
}

impl Meeting<'_> {
    /// Advances a ready connection as far as possible; returns it while its handshake is under way.
    pub(super) fn advance(&mut self, mut talk: Talk) -> Option<Talk> {
        match self.drive(&mut talk) {
            Ok(Next::Wait | Next::Go) => Some(talk),
            Ok(Next::Over) => None,
            Ok(Next::Established { rank, incarnation }) => {
                self.establish(rank, incarnation, talk);
                None
            }
            Err(broken) => {
                self.broken(&talk, &broken.to_string(), matches!(broken, Broken::Garbage(_) | Broken::Unexpected));
                None
            }
        }
    }

    fn drive(&mut self, talk: &mut Talk) -> Result<Next, Broken> {
        if talk.stage == Stage::Connecting {
            if !talk.connected()? {
                return Ok(Next::Wait);
            }
            talk.stage = Stage::AwaitReply;
            talk.deadline = Instant::now() + HANDSHAKE_TIME;
            talk.queue(&self.greeting);
        }
        loop {
            if talk.stage == Stage::Closing {
                return Ok(if talk.linger() { Next::Over } else { Next::Wait });
            }
            let flushed = talk.flush()?;
            if let (Stage::SendAccept { incarnation }, Some(rank)) = (talk.stage, talk.toward) {
                return Ok(if flushed { Next::Established { rank, incarnation } } else { Next::Wait });
            }
            let message = match talk.receive() {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Next::Wait),
                Err(Broken::Garbage(Garbage::Version(theirs))) => {
                    self.other_version(talk, theirs);
                    continue;
                }
                Err(broken) => return Err(broken),
            };
            match self.handle(talk, message)? {
                Next::Go => {}
                next => return Ok(next),
            }
        }
    }

    fn handle(&mut self, talk: &mut Talk, message: Message) -> Result<Next, Broken> {
        match (talk.stage, message) {
            (Stage::AwaitHello, Message::Hello(hello)) => {
                self.hello_of_connector(talk, &hello);
                Ok(Next::Go)
            }
            // The other end asks whether the group runs.
            (Stage::AwaitHello, Message::Question(question)) => {
                let answer = self.around.answer.map(|answer| answer(&question)).unwrap_or_default();
                talk.close_with_bytes(&answer, Instant::now());
                Ok(Next::Go)
            }
            (Stage::AwaitReply, Message::Hello(hello)) => {
                self.hello_of_acceptor(talk, &hello)?;
                Ok(Next::Go)
            }
            (Stage::AwaitReply, Message::Refuse(refuse)) => {
                let rank = talk.toward.ok_or(Broken::Unexpected)?;
                let error = check::refusal(&self.config.members[rank], &self.hello, &refuse);
                match refuse.code {
                    Code::Duplicate => self.is_duplicate(rank, error),
                    Code::NotFounding => {
                        self.obstacle(rank, refuse.reason);
                        self.retry(rank, RETRY_AFTER_ANSWER_TIME);
                    }
                    _ => self.fail(error),
                }
                Ok(Next::Over)
            }
            (Stage::AwaitAccept { rank, incarnation }, Message::Accept) => {
                // Two processes with one id may both have come this far. The first that accepts is the member.
                if self.is_taken(rank, incarnation) {
                    return Err(Broken::Closed { midway: false });
                }
                Ok(Next::Established { rank, incarnation })
            }
            (Stage::AwaitAccept { rank, .. }, Message::Refuse(refuse)) => {
                self.refused_by_connector(talk, rank, &refuse);
                Ok(Next::Over)
            }
            _ => Err(Broken::Unexpected),
        }
    }

    fn hello_of_connector(&mut self, talk: &mut Talk, hello: &Hello) {
        let checked = check::connector(self.config, self.rank, &self.hello, hello).and_then(|rank| {
            if self.is_taken(rank, hello.incarnation) {
                let reason = format!(
                    "member {} is already connected: another process runs with this id; stop one of them",
                    hello.member
                );
                return Err(check::deny(&self.hello, Code::Duplicate, reason));
            }
            Ok(rank)
        });
        match checked {
            Ok(rank) => {
                self.around.outside.tell(&hello.former, hello.member.0);
                talk.stage = Stage::AwaitAccept { rank, incarnation: hello.incarnation };
                talk.queue(&self.greeting);
            }
            Err(denial) => {
                tracing::warn!(
                    "meeting: refused a connection from {}, member {} of group {:?}: {}",
                    talk.place,
                    hello.member,
                    hello.group,
                    denial.refuse.reason
                );
                self.note_group(hello);
                self.deny(talk, *denial);
            }
        }
    }

    /// Records that a member has another group's name.
    ///
    /// This does not end the meeting, since another group's process may use an address that was this group's. If the
    /// member does not come in another way, the name is reported as the reason why it is missing.
    fn note_group(&mut self, hello: &Hello) {
        let rank = self.config.members.iter().position(|member| member.id == hello.member);
        let (ours, theirs) = (&self.hello.group, &hello.group);
        if let Some(rank) = rank.filter(|&rank| rank > self.rank && ours != theirs) {
            self.obstacle(
                rank,
                format!("it disagrees on `group`: {ours} here, {theirs} there; give every member the same file"),
            );
        }
    }

    fn hello_of_acceptor(&mut self, talk: &mut Talk, hello: &Hello) -> Result<(), Broken> {
        let rank = talk.toward.ok_or(Broken::Unexpected)?;
        match check::acceptor(&self.config.members[rank], &self.hello, hello) {
            Ok(()) => {
                self.around.outside.tell(&hello.former, hello.member.0);
                talk.queue(&self.accept);
                talk.stage = Stage::SendAccept { incarnation: hello.incarnation };
            }
            Err(denial) => self.deny(talk, *denial),
        }
        Ok(())
    }

    /// Refuses the other end, and ends the meeting if the reason concerns a member.
    fn deny(&mut self, talk: &mut Talk, denial: Denial) {
        talk.close_with(&Message::Refuse(denial.refuse), Instant::now());
        if let Some(error) = denial.fatal {
            self.fail(error);
        }
    }

    fn other_version(&mut self, talk: &mut Talk, theirs: u32) {
        let broken = Garbage::Version(theirs).to_string();
        tracing::warn!("meeting: refused {}: {broken}", talk.place);
        // In the text for the other end, "it" is this process.
        let reason = format!("it speaks protocol version {}, this process {theirs}", super::wire::VERSION);
        let mut denial = check::deny(&self.hello, Code::Version, reason);
        if let Some(rank) = talk.toward {
            let reason = format!("{broken}; run the same version everywhere");
            denial.fatal = Some(Error::Refused { member: self.config.members[rank].id, reason });
        }
        self.deny(talk, *denial);
    }

    fn refused_by_connector(&mut self, talk: &Talk, rank: usize, refuse: &Refuse) {
        let member = self.config.members[rank].id;
        tracing::warn!("meeting: member {member} at {} refused this process: {}", talk.place, refuse.reason);
        self.obstacle(rank, format!("it refused this process: {}", refuse.reason));
    }

    /// Records why a connection ended, and schedules the next attempt.
    pub(super) fn broken(&mut self, talk: &Talk, what: &str, is_garbage: bool) {
        match (talk.toward, talk.stage) {
            (Some(rank), stage) => {
                if is_garbage && self.obstacles[rank].as_deref() != Some(what) {
                    tracing::warn!("meeting: the process at {} is not a usable member: {what}", talk.place);
                }
                self.obstacle(rank, what.to_owned());
                let answered = stage != Stage::Connecting;
                self.retry(rank, if answered { RETRY_AFTER_ANSWER_TIME } else { super::dial::RETRY_TIME });
            }
            (None, Stage::AwaitAccept { rank, .. }) => {
                tracing::warn!("meeting: member {} at {}: {what}", self.config.members[rank].id, talk.place);
                self.obstacle(rank, what.to_owned());
            }
            (None, Stage::Closing) => {}
            (None, _) => tracing::warn!("meeting: dropped a connection from {}: {what}", talk.place),
        }
    }
}
