//! The shape guard against the general codec: bodies made at random from the shapes, for every served version.

use super::super::shape::{Field, Kind, request_shape};
use super::super::*;
use super::*;
use bytes::BufMut;

/// A small generator with a seed (SplitMix64), so that a failure can be repeated.
pub(super) struct Seeded(pub u64);

impl Seeded {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.next() % bound).unwrap()
    }
}

struct Generator {
    random: Seeded,
    version: i16,
    flexible: bool,
    out: BytesMut,
}

impl Generator {
    fn structure(&mut self, fields: &[Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.is_in(version)) {
            self.value(&field.kind, field.is_nullable_in(version));
        }
        if !self.flexible {
            return;
        }
        let tags = self.random.below(3) as u8;
        self.out.put_u8(tags);
        for tag in 0..tags {
            let size = self.random.below(4) as u8;
            self.out.put_u8(100 + tag);
            self.out.put_u8(size);
            self.out.put_bytes(0xee, usize::from(size));
        }
    }

    fn value(&mut self, kind: &Kind, nullable: bool) {
        let is_null = nullable && self.random.below(4) == 0;
        match kind {
            // Booleans among them: any other byte would be written back as 1.
            Kind::Fixed(1) => self.out.put_u8(self.random.below(2) as u8),
            Kind::Fixed(bytes) => {
                for _ in 0..*bytes {
                    let byte = self.random.below(256) as u8;
                    self.out.put_u8(byte);
                }
            }
            Kind::Struct(_) if is_null => self.out.put_i8(-1),
            Kind::Struct(fields) => {
                if nullable {
                    self.out.put_i8(1);
                }
                self.structure(fields);
            }
            Kind::String => self.text(is_null, true),
            Kind::Bytes => self.text(is_null, false),
            Kind::Array(element) => {
                let count = self.random.below(4);
                self.length(if is_null { None } else { Some(count) }, false);
                for _ in 0..(if is_null { 0 } else { count }) {
                    self.value(element, false);
                }
            }
        }
    }

    fn text(&mut self, is_null: bool, short_length: bool) {
        let count = self.random.below(9);
        self.length(if is_null { None } else { Some(count) }, short_length);
        if !is_null {
            self.out.put_bytes(b'x', count);
        }
    }

    fn length(&mut self, length: Option<usize>, short: bool) {
        let signed = length.map_or(-1, |length| length as i32);
        match (self.flexible, short) {
            (true, _) => self.out.put_u8((signed + 1) as u8),
            (false, true) => self.out.put_i16(signed as i16),
            (false, false) => self.out.put_i32(signed),
        }
    }
}

/// A body of a cold request, made at random from its shape.
pub(super) fn random_body(api: ApiKey, version: i16, seed: u64) -> BytesMut {
    let flexible = api.flexible(version);
    let mut generator = Generator { random: Seeded(seed), version, flexible, out: BytesMut::new() };
    generator.structure(request_shape(api).unwrap());
    generator.out
}

/// A whole frame (without its length) around `body`.
pub(super) fn frame_of(header: &RequestHeader, body: &[u8]) -> BytesMut {
    let mut writer = Writer::new(false, 0);
    header.encode(&mut writer);
    let mut frame = payload(&writer.finish().unwrap());
    frame.put_slice(body);
    frame
}

/// Every cold API with every version served.
pub(super) fn cold_versions() -> impl Iterator<Item = (ApiKey, i16)> {
    let cold = SUPPORTED.iter().filter(|range| request_shape(range.api).is_some());
    cold.flat_map(|range| (range.served_min..=range.max).map(|version| (range.api, version)))
}

macro_rules! encode_again {
    ($request:expr, $version:expr, $($name:ident)*) => {{
        let mut out = BytesMut::new();
        match $request {
            $(Request::$name(message) => message.encode(&mut out, $version).unwrap(),)*
            other => panic!("{:?} is not cold", other.api()),
        }
        out
    }};
}

fn encode_cold_request(request: &Request, version: i16) -> BytesMut {
    encode_again!(request, version,
        ListOffsets OffsetCommit OffsetFetch FindCoordinator JoinGroup Heartbeat LeaveGroup SyncGroup DescribeGroups
        ListGroups CreateTopics DeleteTopics DeleteRecords InitProducerId OffsetForLeaderEpoch DescribeConfigs
        AlterConfigs DescribeLogDirs CreatePartitions DeleteGroups IncrementalAlterConfigs OffsetDelete
        DescribeCluster DescribeTopicPartitions ElectLeaders AlterPartitionReassignments ListPartitionReassignments
        DescribeQuorum UnregisterBroker AddRaftVoter RemoveRaftVoter)
}

#[test]
fn the_guard_and_the_general_codec_agree_on_every_version() {
    for (api, version) in cold_versions() {
        let header = header(api, version);
        for seed in 0..60 {
            let body = random_body(api, version, seed);
            let at = format!("{} v{version}, seed {seed}, body {body:x?}", api.name());
            assert_eq!(check_request(api, version, &body), Ok(body.len()), "{at}");

            let (decoded_header, request) = decode_request(frame_of(&header, &body)).expect(&at);
            assert_eq!(decoded_header, header);
            assert_eq!(request.api(), api);
            if api == ApiKey::CreateTopics && version < 2 {
                continue;
            }
            assert_eq!(encode_cold_request(&request, version), body, "{at}");
        }
    }
}

#[test]
fn bytes_after_the_body_are_ignored() {
    for (api, version) in cold_versions() {
        let header = header(api, version);
        let body = random_body(api, version, 3);
        let expected = decode_request(frame_of(&header, &body)).unwrap();
        let mut longer = body.clone();
        longer.put_slice(&[0xff; 9]);
        assert_eq!(check_request(api, version, &longer), Ok(body.len()));
        assert_eq!(decode_request(frame_of(&header, &longer)), Ok(expected), "{} v{version}", api.name());
    }
}

#[test]
fn a_body_cut_anywhere_is_refused() {
    for (api, version) in cold_versions() {
        let body = random_body(api, version, 5);
        for length in 0..body.len() {
            let refused = check_request(api, version, &body[..length]);
            assert!(refused.is_err(), "{} v{version} cut at {length} of {}", api.name(), body.len());
        }
    }
}
