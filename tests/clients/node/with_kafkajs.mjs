// kafkajs against a broker. Called as `node with_kafkajs.mjs SCENARIO HOST:PORT`; leaves with 0 only when all checks held.
// kafkajs has gzip of its own and no other codec; other compressions are read back through the other clients' suites.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'

// The packages live in the directory that the tests set up, not beside this file.
const require = createRequire(process.env.CHRONIK_NODE_MODULES + '/')
const { Kafka, CompressionTypes, ConfigResourceTypes, logLevel } = require('kafkajs')

const unique = (prefix) => `${prefix}-${randomUUID().slice(0, 12)}`
const step = (text) => console.log(`ok ${text}`)

async function eventually (probe, what, seconds = 30) {
  const deadline = Date.now() + seconds * 1000
  while (!(await probe())) {
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

async function createTopic (kafka, topic, numPartitions) {
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic, numPartitions }], waitForLeaders: true })
  await admin.disconnect()
}

async function readAll (kafka, topic, count) {
  const consumer = kafka.consumer({ groupId: unique('js-read') })
  const records = []
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({ eachMessage: async ({ message }) => { records.push(message) } })
  await eventually(() => records.length >= count, `${count} records of ${topic}`)
  await consumer.disconnect()
  return records
}

function sampleRecords () {
  const records = [
    { key: null, value: 'no key', headers: {} },
    { key: 'key', value: null, headers: {} },
    { key: '', value: '', headers: {} },
    { key: 'headers', value: 'v', headers: { one: '1', empty: '' } },
    { key: 'large', value: 'x'.repeat(300_000), headers: {} }
  ]
  for (let n = 0; n < 200; n++) records.push({ key: `k${n}`, value: `value ${n}`, headers: {} })
  return records
}

const plain = (message) => ({
  key: message.key === null ? null : message.key.toString(),
  value: message.value === null ? null : message.value.toString(),
  headers: Object.fromEntries(Object.entries(message.headers ?? {}).map(([k, v]) => [k, v.toString()]))
})

async function roundtrip (kafka) {
  for (const [name, compression, idempotent] of [
    ['no compression', CompressionTypes.None, false],
    ['gzip', CompressionTypes.GZIP, false],
    ['an idempotent producer', CompressionTypes.None, true]
  ]) {
    const topic = unique('js-round')
    await createTopic(kafka, topic, 1)
    const producer = kafka.producer({ idempotent, maxInFlightRequests: 1 })
    await producer.connect()
    const sent = sampleRecords()
    const [answer] = await producer.send({ topic, compression, acks: -1, messages: sent })
    assert.equal(answer.errorCode, 0)
    assert.equal(answer.baseOffset, '0')
    await producer.disconnect()
    const got = await readAll(kafka, topic, sent.length)
    assert.deepEqual(got.map(plain), sent)
    assert.deepEqual(got.map((m) => m.offset), sent.map((_, n) => String(n)))
    step(`round trip with ${name}`)
  }
}

async function startMember (kafka, topic, groupId) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 500, rebalanceTimeout: 10000 })
  const member = { consumer, partitions: 0, records: [] }
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    member.partitions = (payload.memberAssignment[topic] ?? []).length
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommitInterval: 100,
    eachMessage: async ({ partition, message }) => { member.records.push([partition, message.offset]) }
  })
  return member
}

async function groups (kafka) {
  const topic = unique('js-group')
  const groupId = unique('js-group')
  await createTopic(kafka, topic, 4)
  const producer = kafka.producer()
  await producer.connect()
  const messages = Array.from({ length: 400 }, (_, n) => ({ value: `${n}`, partition: n % 4 }))
  await producer.send({ topic, messages })
  const first = await startMember(kafka, topic, groupId)
  await eventually(() => first.partitions === 4 && first.records.length === 400, 'one member reads all')
  const second = await startMember(kafka, topic, groupId)
  await eventually(() => first.partitions === 2 && second.partitions === 2, 'a second member takes half')
  await second.consumer.disconnect()
  await eventually(() => first.partitions === 4, 'the partitions come back')
  await first.consumer.disconnect()
  step('join, rebalance, leave')

  const admin = kafka.admin()
  await admin.connect()
  const [offsets] = await admin.fetchOffsets({ groupId, topics: [topic] })
  assert.deepEqual(offsets.partitions.map((p) => p.offset), ['100', '100', '100', '100'])
  await producer.send({ topic, messages: [{ value: 'after', partition: 2 }] })
  const again = await startMember(kafka, topic, groupId)
  await eventually(() => again.records.length > 0, 'the group resumes')
  assert.deepEqual(again.records, [[2, '100']])
  await again.consumer.disconnect()
  step('commit and resume')

  assert.ok((await admin.listGroups()).groups.some((g) => g.groupId === groupId))
  await admin.resetOffsets({ groupId, topic, earliest: true })
  const described = (await admin.describeGroups([groupId])).groups[0]
  assert.equal(described.state, 'Empty')
  await admin.deleteGroups([groupId])
  assert.ok(!(await admin.listGroups()).groups.some((g) => g.groupId === groupId))
  await admin.disconnect()
  await producer.disconnect()
  step('groups listed, described, reset, deleted')
}

async function admin (kafka) {
  const topic = unique('js-admin')
  const client = kafka.admin()
  await client.connect()
  const configEntries = [{ name: 'retention.ms', value: '3600000' }]
  assert.equal(await client.createTopics({ topics: [{ topic, numPartitions: 3, configEntries }] }), true)
  assert.equal(await client.createTopics({ topics: [{ topic }] }), false, 'the topic is there already')
  assert.ok((await client.listTopics()).includes(topic))
  await client.createPartitions({ topicPartitions: [{ topic, count: 5 }] })
  const partitions = async () => (await client.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length
  await eventually(async () => (await partitions()) === 5, 'five partitions')
  step('create, list, create partitions')

  const config = async (name) => {
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic }]
    const answer = await client.describeConfigs({ includeSynonyms: false, resources })
    return answer.resources[0].configEntries.find((entry) => entry.configName === name).configValue
  }
  assert.equal(await config('retention.ms'), '3600000')
  const change = { type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name: 'max.message.bytes', value: '2000' }] }
  await client.alterConfigs({ resources: [change] })
  await eventually(async () => (await config('max.message.bytes')) === '2000', 'the altered config')
  step('configs')

  const producer = kafka.producer()
  await producer.connect()
  const messages = Array.from({ length: 10 }, (_, n) => ({ value: `${n}`, partition: 0, timestamp: `${1_000_000 + n * 1000}` }))
  for (const message of messages) await producer.send({ topic, messages: [message] })
  await assert.rejects(
    producer.send({ topic, messages: [{ value: 'x'.repeat(5000), partition: 0 }] }),
    (error) => error.type === 'MESSAGE_TOO_LARGE')
  await producer.disconnect()
  const [found] = (await client.fetchTopicOffsetsByTimestamp(topic, 1_004_500)).filter((p) => p.partition === 0)
  assert.equal(found.offset, '5')
  await client.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '4' }] })
  const [watermarks] = (await client.fetchTopicOffsets(topic)).filter((p) => p.partition === 0)
  assert.deepEqual([watermarks.low, watermarks.high], ['4', '10'])
  step('offsets and delete records')

  const cluster = await client.describeCluster()
  assert.ok(cluster.brokers.length >= 1 && cluster.clusterId)
  await client.deleteTopics({ topics: [topic] })
  await eventually(async () => !(await client.listTopics()).includes(topic), 'the topic is gone')
  await client.disconnect()
  step('describe cluster, delete')
}

const [name, bootstrap] = process.argv.slice(2)
const kafka = new Kafka({ clientId: 'chronik-kafkajs', brokers: [bootstrap], logLevel: logLevel.NOTHING, retry: { retries: 8 } })
await { roundtrip, groups, admin }[name](kafka)
console.log(`passed ${name}`)
process.exit(0)
