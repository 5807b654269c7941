#!/usr/bin/env python3
"""Prints shapes.rs from Kafka's own message schemas.

    mvn dependency:get -Dartifact=org.apache.kafka:kafka-clients:4.3.1
    unzip -o ~/.m2/repository/org/apache/kafka/kafka-clients/4.3.1/kafka-clients-4.3.1.jar 'common/message/*' -d /tmp/schemas
    ./generate_shapes.py /tmp/schemas/common/message > shapes.rs && cargo fmt -p chronik-net
"""
import json
import re
import sys

COLD = """ListOffsets OffsetCommit OffsetFetch FindCoordinator JoinGroup Heartbeat LeaveGroup SyncGroup DescribeGroups
ListGroups CreateTopics DeleteTopics DeleteRecords InitProducerId OffsetForLeaderEpoch DescribeConfigs AlterConfigs
DescribeLogDirs CreatePartitions DeleteGroups IncrementalAlterConfigs OffsetDelete DescribeCluster
DescribeTopicPartitions ElectLeaders AlterPartitionReassignments ListPartitionReassignments DescribeQuorum
UnregisterBroker AddRaftVoter RemoveRaftVoter""".split()
FIXED = {"bool": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "float64": 8, "uuid": 16}
MAX = 32767


def versions(text):
    if text.endswith("+"):
        return int(text[:-1]), MAX
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def snake(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


def kind(type_name, field, structs):
    if type_name.startswith("[]"):
        return f"Array(&{kind(type_name[2:], field, structs)})"
    if type_name in FIXED:
        return f"Fixed({FIXED[type_name]})"
    if type_name in ("string", "bytes"):
        return type_name.capitalize()
    return f"Struct(&[{fields(field.get('fields') or structs[type_name], structs)}])"


def fields(members, structs):
    lines = []
    for field in members:
        assert "tag" not in field, "no cold request has a known tagged field; the walker knows none"
        first, last = versions(field["versions"])
        line = f'Field::new("{field["name"]}", {first}, {"LATEST" if last == MAX else last}, '
        line += kind(field["type"], field, structs) + ")"
        if "nullableVersions" in field:
            first, last = versions(field["nullableVersions"])
            line += f'.nullable({first}, {"LATEST" if last == MAX else last})'
        lines.append(line)
    return ", ".join(lines)


print("""//! The shapes of the cold requests, printed by `generate_shapes.py` from the schemas of Kafka 4.3.1. Do not edit.

use super::shape::Kind::{Array, Bytes, Fixed, String, Struct};
use super::shape::{Field, LATEST};
""")
for name in COLD:
    text = "".join(line for line in open(f"{sys.argv[1]}/{name}Request.json") if not line.lstrip().startswith("//"))
    schema = json.loads(text)
    structs = {struct["name"]: struct["fields"] for struct in schema.get("commonStructs", [])}
    print(f"/// {name}, key {schema['apiKey']}.")
    print(f"pub(super) static {snake(name)}: &[Field] = &[{fields(schema['fields'], structs)}];\n")
