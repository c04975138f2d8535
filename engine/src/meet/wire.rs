//! The messages of a meeting, and a decoder that never asks for a byte beyond the current message.
//!
//! Every message is a preamble of [`PREAMBLE_LEN`] bytes {magic, protocol version u32, kind u8, body length u32} and a
//! body. Numbers are little-endian. The body of a hello is TOML, as that of a question (see
//! [`crate::meet::questions`]). In the body of a refusal, a string is its length (u32) and its UTF-8 bytes. The preamble
//! and [`Refuse`] are the same in every protocol version, so that different versions can recognise each other.

use crate::types::MemberId;
use serde::{Deserialize, Serialize};
use std::fmt;

pub(super) const MAGIC: [u8; 8] = *b"GALERNA\n";
pub(super) const VERSION: u32 = 3;
pub(crate) const PREAMBLE_LEN: usize = 17;
pub(crate) const BODY_MAX: usize = 64 << 10;

pub(crate) const KIND_HELLO: u8 = 1;
const KIND_ACCEPT: u8 = 2;
const KIND_REFUSE: u8 = 3;
const KIND_READY: u8 = 4;
/// A question to a process, in a group or not: see the group's `wire`.
pub(crate) const KIND_REQUEST: u8 = 16;
/// The longest reason or value in a [`Refuse`], in bytes; it is read by a human.
const REFUSE_TEXT_MAX: usize = 1024;

/// The identity of a process, and the configuration that it expects the others to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) group: String,
    pub(super) view: u64,
    pub(super) member: MemberId,
    pub(super) incarnation: u64,
    pub(super) agreed: Vec<(String, String)>,
    /// Addresses of members of a group of this name in which this process has been, except the founders.
    pub(super) former: Vec<String>,
}

/// A refusal of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refuse {
    pub(super) code: Code,
    /// The member that refuses.
    pub(super) member: MemberId,
    /// With [`Code::Disagreement`]: the key that differs, and its value at the refusing member. Otherwise empty.
    pub(super) key: String,
    pub(super) value: String,
    pub(super) reason: String,
}

/// The kind of reason in a [`Refuse`]. The numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// Another protocol version.
    Version,
    /// Another group name or configuration.
    Disagreement,
    /// The member at the other end is not the expected one.
    Unexpected,
    /// The member is already connected from another process.
    Duplicate,
    /// The group runs already: join it.
    Running,
    /// This process does not found the group at present; ask again.
    NotFounding,
    /// A code of a later version.
    Unknown(u8),
}

impl Code {
    fn to_byte(self) -> u8 {
        match self {
            Code::Version => 1,
            Code::Disagreement => 2,
            Code::Unexpected => 3,
            Code::Duplicate => 4,
            Code::Running => 5,
            Code::NotFounding => 6,
            Code::Unknown(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> Code {
        match byte {
            1 => Code::Version,
            2 => Code::Disagreement,
            3 => Code::Unexpected,
            4 => Code::Duplicate,
            5 => Code::Running,
            6 => Code::NotFounding,
            other => Code::Unknown(other),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Hello(Hello),
    Accept,
    Refuse(Refuse),
    /// The sender has links to all other processes.
    Ready,
    /// The body of a question, as in the group's `wire`.
    Question(Vec<u8>),
}

/// Bytes that are not a message of this protocol version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Garbage {
    Magic,
    Version(u32),
    Kind(u8),
    Length(u32),
    Body(String),
}

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Garbage::Magic => write!(f, "it is not a member: its first bytes are not those of this protocol"),
            Garbage::Version(theirs) => write!(f, "it speaks protocol version {theirs}, this process {VERSION}"),
            Garbage::Kind(kind) => write!(f, "it sent a message of the unknown kind {kind}"),
            Garbage::Length(len) => write!(f, "it announced a message of {len} bytes; the limit is {BODY_MAX}"),
            Garbage::Body(what) => write!(f, "it sent a malformed message: {what}"),
        }
    }
}

impl Message {
    /// The bytes of the message; `None` if its body exceeds [`BODY_MAX`].
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        let kind = match self {
            Message::Hello(hello) => {
                body.extend_from_slice(toml::to_string(hello).ok()?.as_bytes());
                KIND_HELLO
            }
            Message::Accept => KIND_ACCEPT,
            Message::Ready => KIND_READY,
            Message::Question(question) => {
                body.extend_from_slice(question);
                KIND_REQUEST
            }
            Message::Refuse(refuse) => {
                body.push(refuse.code.to_byte());
                body.extend_from_slice(&refuse.member.0.to_le_bytes());
                for text in [&refuse.key, &refuse.value, &refuse.reason] {
                    put_str(&mut body, clipped(text))?;
                }
                KIND_REFUSE
            }
        };
        with_preamble(kind, &body)
    }
}

/// The bytes of a message of kind `kind`; `None` if its body exceeds [`BODY_MAX`].
pub(crate) fn with_preamble(kind: u8, body: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= BODY_MAX)?;
    Some([&MAGIC[..], &VERSION.to_le_bytes(), &[kind], &len.to_le_bytes(), body].concat())
}

fn put_str(body: &mut Vec<u8>, text: &str) -> Option<()> {
    body.extend_from_slice(&u32::try_from(text.len()).ok()?.to_le_bytes());
    body.extend_from_slice(text.as_bytes());
    Some(())
}

fn clipped(text: &str) -> &str {
    let mut end = text.len().min(REFUSE_TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Assembles one message after another. Read at most [`Decoder::wanted`] bytes and pass them to [`Decoder::push`].
#[derive(Debug, Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
    /// The kind and the body length, once the preamble is complete and valid.
    preamble: Option<(u8, usize)>,
}

impl Decoder {
    /// The missing bytes of the current message, or of its preamble while that is incomplete; never 0.
    pub(super) fn wanted(&self) -> usize {
        let len = self.preamble.map_or(PREAMBLE_LEN, |(_, body)| PREAMBLE_LEN + body);
        len - self.bytes.len()
    }

    /// True when no byte of a message has been read.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes the next bytes, at most [`Decoder::wanted`] of them, and returns the message that they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Option<Message>, Garbage> {
        if bytes.len() > self.wanted() {
            return Err(malformed("more bytes than were asked for"));
        }
        self.bytes.extend_from_slice(bytes);
        // Checked as early as possible: a stranger may never send a whole preamble.
        let magic = self.bytes.len().min(MAGIC.len());
        if self.bytes[..magic] != MAGIC[..magic] {
            return Err(Garbage::Magic);
        }
        if self.preamble.is_none() && self.bytes.len() == PREAMBLE_LEN {
            self.preamble =
                Some(preamble(&self.bytes, &[KIND_HELLO, KIND_ACCEPT, KIND_REFUSE, KIND_READY, KIND_REQUEST])?);
        }
        match self.preamble {
            Some((kind, body)) if self.bytes.len() == PREAMBLE_LEN + body => {
                let message = decode(kind, &self.bytes[PREAMBLE_LEN..])?;
                *self = Decoder::default();
                Ok(Some(message))
            }
            _ => Ok(None),
        }
    }
}

/// Decodes a preamble: the kind, which must be one of `kinds`, and the length of the body.
pub(crate) fn preamble(bytes: &[u8], kinds: &[u8]) -> Result<(u8, usize), Garbage> {
    let mut reader = Reader { rest: bytes };
    if reader.array()? != MAGIC {
        return Err(Garbage::Magic);
    }
    let (version, kind, len) = (reader.u32()?, reader.u8()?, reader.u32()?);
    let expected = kinds.contains(&kind);
    if version != VERSION && !(expected && kind == KIND_REFUSE) {
        return Err(Garbage::Version(version));
    }
    if !expected {
        return Err(Garbage::Kind(kind));
    }
    match usize::try_from(len) {
        Ok(body) if body <= BODY_MAX => Ok((kind, body)),
        _ => Err(Garbage::Length(len)),
    }
}

fn decode(kind: u8, body: &[u8]) -> Result<Message, Garbage> {
    match kind {
        KIND_REQUEST => return Ok(Message::Question(body.to_vec())),
        KIND_HELLO => {
            let hello = toml::from_str(text_of(body)?);
            return hello.map(Message::Hello).map_err(|error| malformed(error.message()));
        }
        _ => {}
    }
    let mut reader = Reader { rest: body };
    let message = match kind {
        KIND_ACCEPT => Message::Accept,
        KIND_READY => Message::Ready,
        KIND_REFUSE => Message::Refuse(Refuse {
            code: Code::from_byte(reader.u8()?),
            member: MemberId(reader.u32()?),
            key: reader.string()?,
            value: reader.string()?,
            reason: reader.string()?,
        }),
        other => return Err(Garbage::Kind(other)),
    };
    if reader.rest.is_empty() { Ok(message) } else { Err(malformed("bytes after its last field")) }
}

fn malformed(what: impl Into<String>) -> Garbage {
    Garbage::Body(what.into())
}

fn text_of(bytes: &[u8]) -> Result<&str, Garbage> {
    std::str::from_utf8(bytes).map_err(|_| malformed("a text is not UTF-8"))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Garbage> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(|| malformed("a field goes beyond its end"))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Garbage> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Garbage> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Garbage> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<String, Garbage> {
        let len = self.u32()? as usize;
        text_of(self.bytes(len)?).map(str::to_owned)
    }
}
