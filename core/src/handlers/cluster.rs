//! DescribeCluster 0 to 2.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED};
use crate::metadata::snapshot::Snapshot;

/// The endpoints that clients of brokers use (KIP-919); 2 would be those of controllers.
const ENDPOINTS_OF_BROKERS: i8 = 1;

/// Answers a DescribeCluster request that came in on this listener.
#[must_use]
pub fn describe_cluster(
    snapshot: &Snapshot,
    request: &DescribeClusterRequest,
    listener: &str,
) -> DescribeClusterResponse {
    let text = |value: &str| StrBytes::from_string(value.to_owned());
    if request.endpoint_type != ENDPOINTS_OF_BROKERS {
        let error = match request.endpoint_type {
            2 => ResponseError::MismatchedEndpointType,
            _ => ResponseError::UnsupportedEndpointType,
        };
        return DescribeClusterResponse::default()
            .with_endpoint_type(request.endpoint_type)
            .with_error_code(error.code())
            .with_error_message(Some(text("This is an endpoint of type BROKER.")))
            .with_cluster_authorized_operations(OPERATIONS_NOT_ASKED);
    }
    let listed = snapshot.brokers.iter().filter_map(|(node, broker)| {
        let is_fenced = snapshot.fenced.contains(node);
        let endpoint =
            broker.listeners.get(listener).filter(|_| !is_fenced || request.include_fenced_brokers)?;
        let row = DescribeClusterBroker::default()
            .with_broker_id(BrokerId(node.0))
            .with_host(text(&endpoint.host))
            .with_port(i32::from(endpoint.port))
            .with_rack(broker.rack.as_deref().map(text))
            .with_is_fenced(is_fenced);
        Some(row)
    });
    let operations = request.include_cluster_authorized_operations;
    DescribeClusterResponse::default()
        .with_error_message(None)
        .with_endpoint_type(ENDPOINTS_OF_BROKERS)
        .with_cluster_id(text(snapshot.cluster_id.as_deref().unwrap_or_default()))
        .with_controller_id(BrokerId(snapshot.controller_for(listener).0))
        .with_brokers(listed.collect())
        .with_cluster_authorized_operations(if operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_NOT_ASKED
        })
}
