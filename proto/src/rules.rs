//! The field rules of the contract (`buf.validate`), checked on every request that a gRPC server decodes.
//!
//! `build/rules.rs` generates one [`Check`] for each message from the rules of its fields. [`CheckedCodec`]
//! is the codec of every generated client and server, so no handler gets a request that breaks a rule,
//! neither a single request nor one on a stream. Only requests have rules: the checks of responses are empty.

use std::{fmt, marker::PhantomData};

use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstDecoder, ProstEncoder};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// A message that knows the rules of its fields.
pub trait Check {
    /// Adds a violation for each field that breaks a rule, at most one a field. `at` is the place of this
    /// message in the request.
    fn check(&self, _at: &Place<'_>, _found: &mut Violations) {}
}

/// The place of a field in a request. It borrows its parts, so that it allocates only when a violation is
/// reported.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    above: Option<&'a Place<'a>>,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Request,
    Field(&'static str),
    Item(&'static str, usize),
}

impl Place<'_> {
    /// The root: the request itself.
    pub const REQUEST: Self = Place { above: None, step: Step::Request };

    pub fn field(&self, name: &'static str) -> Place<'_> {
        Place { above: Some(self), step: Step::Field(name) }
    }

    pub fn item(&self, name: &'static str, index: usize) -> Place<'_> {
        Place { above: Some(self), step: Step::Item(name, index) }
    }
}

/// As the contract names fields: `step.subject.kind`, `scopes[3]`.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above.filter(|above| above.above.is_some()) {
            write!(f, "{above}.")?;
        }
        match self.step {
            Step::Request => Ok(()),
            Step::Field(name) => f.write_str(name),
            Step::Item(name, index) => write!(f, "{name}[{index}]"),
        }
    }
}

/// Maximum violations in one refusal, because its status is sent in HTTP/2 headers, which are limited in
/// size.
const MAX_VIOLATIONS: usize = 8;

/// The fields of one request that break a rule, at most [`MAX_VIOLATIONS`] of them.
#[derive(Debug, Default)]
pub struct Violations {
    listed: Vec<FieldViolation>,
    more: bool,
}

impl Violations {
    /// Whether more fields break a rule than a refusal lists. The remaining fields need not be checked.
    pub fn is_full(&self) -> bool {
        self.more
    }

    /// Adds a violation of the field at `at`. `problem` completes a sentence that begins with the field's
    /// name.
    pub fn add(&mut self, at: Place<'_>, problem: &'static str) {
        if self.listed.len() < MAX_VIOLATIONS {
            self.listed.push(FieldViolation::new(at.to_string(), problem));
        } else {
            self.more = true;
        }
    }

    /// Returns INVALID_ARGUMENT with the violations in its details, if there are any.
    fn into_result(self) -> Result<(), Status> {
        if self.listed.is_empty() {
            return Ok(());
        }
        let mut sentences: Vec<_> =
            self.listed.iter().map(|v| format!("{} {}", v.field, v.description)).collect();
        sentences.extend(self.more.then(|| "and more".to_owned()));
        let mut details = ErrorDetails::new();
        details.set_error_info("INVALID_ARGUMENT", "steward", []).set_bad_request(self.listed);
        Err(Status::with_error_details(tonic::Code::InvalidArgument, sentences.join("; "), details))
    }
}

/// Checks a request.
///
/// # Errors
/// INVALID_ARGUMENT names the fields that break a rule, at most [`MAX_VIOLATIONS`].
pub fn check(request: &impl Check) -> Result<(), Status> {
    let mut found = Violations::default();
    request.check(&Place::REQUEST, &mut found);
    found.into_result()
}

/// Whether `text` is a UUID as the contract writes them: hyphenated, hex digits in either case.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Returns a duration in nanoseconds.
pub fn nanos(duration: &prost_types::Duration) -> i128 {
    i128::from(duration.seconds) * 1_000_000_000 + i128::from(duration.nanos)
}

/// A regular expression, compiled at its first use. `build/rules.rs` fails the build if it is invalid.
pub type Pattern = std::sync::LazyLock<Result<regex::Regex, regex::Error>>;

pub fn matches(pattern: &Pattern, text: &str) -> bool {
    pattern.as_ref().is_ok_and(|pattern| pattern.is_match(text))
}

/// [`tonic_prost::ProstCodec`] that also [checks](Check) what it decodes.
#[derive(Debug, Clone)]
pub struct CheckedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for CheckedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for CheckedCodec<T, U>
where
    T: Message + 'static,
    U: Message + Check + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = CheckedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CheckedDecoder(ProstDecoder::default())
    }
}

/// Decodes and checks messages.
#[derive(Debug, Clone)]
pub struct CheckedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Check + Default> Decoder for CheckedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = self.0.decode(buf)?;
        message.as_ref().map_or(Ok(()), check)?;
        Ok(message)
    }
}

// The generated checks.
include!(concat!(env!("OUT_DIR"), "/rules.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chat::v1::{CreateSessionRequest, CreateTurnRequest},
        custody::v1::{FreezeRequest, Step, Subject},
        purge::v1::{HoldBasis, SetHoldRequest, set_hold_request},
        registry::v1::{CreateAgentRequest, CreateTokenRequest},
        sandbox::v1::{ExecRequest, WriteFileRequest},
    };

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn refusal_names_every_field_that_breaks_a_rule() {
        let request = CreateTokenRequest {
            account_id: "7".to_owned(),
            name: "a\nb".to_owned(),
            scopes: vec!["*".to_owned(), "sudo".to_owned()],
            ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        };
        let status = check(&request).unwrap_err();
        let bad = status.get_details_bad_request().unwrap().field_violations;
        let fields: Vec<_> = bad.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["account_id", "name", "scopes[1]", "ttl"]);
        assert!(status.message().starts_with("account_id must be a UUID; name must not be blank"));
    }

    #[test]
    fn a_refusal_fits_into_headers_however_many_fields_are_wrong() {
        let argv = vec!["a\0".to_owned(); 100_000];
        let scopes = vec!["sudo".to_owned(); 50];
        for status in [
            check(&ExecRequest { sandbox_id: ID.to_owned(), argv, ..Default::default() }).unwrap_err(),
            check(&CreateTokenRequest { scopes, ..Default::default() }).unwrap_err(),
        ] {
            assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), MAX_VIOLATIONS);
            assert!(status.message().ends_with("; and more"), "{}", status.message());
            let response = status.into_http::<String>();
            let size: usize =
                response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            assert!(size < 5 << 10, "{size} bytes");
        }
    }

    #[test]
    fn a_list_of_wrong_fields_says_only_truly_that_there_are_more() {
        let argv = [vec!["\0".to_owned(); MAX_VIOLATIONS], vec![String::new(); 9]].concat();
        let status =
            check(&ExecRequest { sandbox_id: ID.to_owned(), argv, ..Default::default() }).unwrap_err();
        assert!(!status.message().contains("and more"), "{}", status.message());
    }

    #[test]
    fn fields_of_nested_messages_have_their_path() {
        let subject = Subject { kind: 9, subject_id: ID.to_owned(), account_id: String::new() };
        let step = Step { purge_id: ID.to_owned(), epoch: 1, subject: Some(subject) };
        let status = check(&FreezeRequest { step: Some(step) }).unwrap_err();
        let bad = status.get_details_bad_request().unwrap().field_violations;
        let named: Vec<_> = bad.iter().map(|v| (v.field.as_str(), v.description.as_str())).collect();
        assert_eq!(
            named,
            [
                ("step.subject.kind", "must be a value of SubjectKind"),
                ("step.subject.account_id", "is required")
            ]
        );
    }

    #[test]
    fn titles_and_inputs_have_bounds() {
        let title =
            |title: &str| check(&CreateSessionRequest { title: title.to_owned(), ..Default::default() });
        assert!(title(&"é".repeat(200)).is_ok(), "characters are counted, not bytes");
        assert!(title(&"é".repeat(201)).is_err());
        assert!(title("a\u{7}b").is_err());
        let input =
            |input: &str| check(&CreateTurnRequest { session_id: ID.to_owned(), input: input.to_owned() });
        assert!(input(&"x".repeat(262_144)).is_ok());
        assert!(input("hello\nworld").is_ok());
        for bad in ["", " \n", "a\0b", &"x".repeat(262_145)] {
            let status = input(bad).unwrap_err();
            let violations = status.get_details_bad_request().unwrap().field_violations;
            assert_eq!(violations[0].field, "input");
        }
    }

    /// Returns the one field of `request` that breaks a rule after `change`, if there is one.
    fn wrong<R: Check + Clone>(request: &R, change: impl FnOnce(&mut R)) -> Option<String> {
        let mut request = request.clone();
        change(&mut request);
        let status = check(&request).err()?;
        let bad = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(bad.len(), 1, "{status}");
        Some(bad[0].field.clone())
    }

    #[test]
    fn names_roles_and_tasks_of_agents_have_bounds() {
        let agent = CreateAgentRequest { name: "a".to_owned(), ..Default::default() };
        for (name, good) in [
            ("Größe 7 – test", true),
            (&*"ä".repeat(200), true),
            (&"ä".repeat(201), false),
            ("", false),
            ("   ", false),
            ("a\nb", false),
            ("a\0", false),
        ] {
            let found = wrong(&agent, |agent| agent.name = name.to_owned());
            assert_eq!(found.as_deref(), (!good).then_some("name"), "{name:?}");
        }
        for (role, good) in [("of\ntwo lines", true), ("x\u{7}", false), (&"x".repeat(1001), false)] {
            let found = wrong(&agent, |agent| agent.role = role.to_owned());
            assert_eq!(found.as_deref(), (!good).then_some("role"), "{role:?}");
        }
        for (tasks, good) in [(0, true), (1000, true), (-1, false), (1001, false)] {
            let found = wrong(&agent, |agent| agent.max_concurrent_tasks = tasks);
            assert_eq!(found.as_deref(), (!good).then_some("max_concurrent_tasks"), "{tasks}");
        }
    }

    #[test]
    fn scopes_are_of_the_contract_and_few() {
        let token =
            CreateTokenRequest { account_id: ID.to_owned(), name: "a".to_owned(), ..Default::default() };
        let wrong = |scopes: Vec<&str>| {
            wrong(&token, |token| token.scopes = scopes.into_iter().map(str::to_owned).collect())
        };
        assert_eq!(wrong(vec!["turns:write"; 50]), None);
        assert_eq!(wrong(vec!["turns:write"; 51]).as_deref(), Some("scopes"));
        assert_eq!(wrong(vec!["turns:write", "turns:wriet"]).as_deref(), Some("scopes[1]"));
    }

    #[test]
    fn references_of_holds_have_no_room_for_content() {
        let hold = SetHoldRequest {
            subject: Some(set_hold_request::Subject::SessionId(ID.to_owned())),
            basis: HoldBasis::try_from(1).unwrap().into(),
            ends_at: Some(prost_types::Timestamp::default()),
            reference: String::new(),
        };
        assert_eq!(wrong(&hold, |hold| hold.reference = "2026/HC-17_a.1".to_owned()), None);
        for bad in ["", "a b", "jane@example.org", "ä", &"x".repeat(65)] {
            let found = wrong(&hold, |hold| hold.reference = bad.to_owned());
            assert_eq!(found.as_deref(), Some("reference"), "{bad:?}");
        }
    }

    #[test]
    fn calls_to_guests_have_bounds() {
        fn variable(exec: &mut ExecRequest, name: &str, value: &str) {
            exec.env.insert(name.to_owned(), value.to_owned());
        }
        let exec =
            ExecRequest { sandbox_id: ID.to_owned(), argv: vec!["true".to_owned()], ..Default::default() };
        for (key, good) in [
            ("", true),
            ("turn/1.2:3_4-5", true),
            (&*"k".repeat(128), true),
            (&"k".repeat(129), false),
            ("a b", false),
            ("ü", false),
            ("a\n", false),
        ] {
            let found = wrong(&exec, |exec| exec.key = key.to_owned());
            assert_eq!(found.as_deref(), (!good).then_some("key"), "{key:?}");
        }
        for (seconds, good) in [(0, false), (1, true), (3600, true), (3601, false)] {
            let timeout = prost_types::Duration { seconds, nanos: 0 };
            let found = wrong(&exec, |exec| exec.timeout = Some(timeout));
            assert_eq!(found.as_deref(), (!good).then_some("timeout"), "{seconds}");
        }
        let changes: [(fn(&mut ExecRequest), _); 9] = [
            (|exec| exec.stdin = vec![0; 1 << 20].into(), None),
            (|exec| exec.stdin = vec![0; (1 << 20) + 1].into(), Some("stdin")),
            (|exec| exec.cwd = "d".repeat(4095), None),
            (|exec| exec.cwd = "d".repeat(4096), Some("cwd")),
            (|exec| exec.argv.push("a\0".to_owned()), Some("argv[1]")),
            (|exec| variable(exec, "A", "b=c"), None),
            (|exec| variable(exec, "", "b"), Some("env")),
            (|exec| variable(exec, "STEWARD_EXEC", "b"), Some("env")),
            (|exec| variable(exec, "A", "b\0"), Some("env")),
        ];
        for (at, (change, field)) in changes.into_iter().enumerate() {
            assert_eq!(wrong(&exec, change).as_deref(), field, "change {at}");
        }
        let write =
            WriteFileRequest { sandbox_id: ID.to_owned(), path: "a".to_owned(), ..Default::default() };
        let changes: [(fn(&mut WriteFileRequest), _); 6] = [
            (|write| write.path.clear(), Some("path")),
            (|write| write.path = "p".repeat(4096), Some("path")),
            (|write| write.path = "a\0".to_owned(), Some("path")),
            (|write| write.content = vec![0; (1 << 20) + 1].into(), Some("content")),
            (|write| write.mode = 0o777, None),
            (|write| write.mode = 0o1000, Some("mode")),
        ];
        for (at, (change, field)) in changes.into_iter().enumerate() {
            assert_eq!(wrong(&write, change).as_deref(), field, "change {at}");
        }
    }

    #[test]
    fn problems_are_said_in_words() {
        let second = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let token = CreateTokenRequest {
            account_id: ID.to_owned(),
            name: "a".to_owned(),
            ttl: second(0),
            ..Default::default()
        };
        let status = check(&token).unwrap_err();
        assert_eq!(status.message(), "ttl must be positive and at most 3660 days");
        let exec = ExecRequest {
            sandbox_id: ID.to_owned(),
            key: "a b".to_owned(),
            argv: vec!["true".to_owned()],
            timeout: second(3601),
            ..Default::default()
        };
        let status = check(&exec).unwrap_err();
        assert_eq!(
            status.message(),
            "key must be 1 to 128 of [A-Za-z0-9_.:/-]; timeout must be between 1 ms and 1 h"
        );
    }

    #[test]
    fn uuids_have_one_spelling() {
        for (text, good) in [
            (ID, true),
            (&ID.to_uppercase(), true),
            (&ID.replace('-', ""), false),
            (&format!("{{{ID}}}"), false),
            (&ID.replace('9', "g"), false),
            (&ID.replace("-ac96", "ac-96"), false),
        ] {
            assert_eq!(is_uuid(text), good, "{text}");
        }
    }
}
