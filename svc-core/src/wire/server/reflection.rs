//! gRPC reflection: offers the files of the contract that define this process's services, and the files that
//! those import.

use std::collections::BTreeSet;

use prost_reflect::{DescriptorError, DescriptorPool, FileDescriptor};
use tonic::service::RoutesBuilder;
use tonic_health::pb::{FILE_DESCRIPTOR_SET as HEALTH, health_server::SERVICE_NAME as HEALTH_NAME};
use tonic_reflection::{
    pb::{
        v1::server_reflection_server::SERVICE_NAME as V1,
        v1alpha::server_reflection_server::SERVICE_NAME as V1_ALPHA,
    },
    server::Builder,
};

use super::Error;

/// Adds both versions of the reflection service. Each lists `services`, the health service and itself.
pub(super) fn add(routes: &mut RoutesBuilder, services: &BTreeSet<&str>) -> Result<(), Error> {
    let contract = files_of(services)?.encode_to_vec();
    let builder = |name| {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(&contract)
            .register_encoded_file_descriptor_set(HEALTH);
        services.iter().copied().chain([HEALTH_NAME, name]).fold(builder, Builder::with_service_name)
    };
    routes.add_service(builder(V1).build_v1()?).add_service(builder(V1_ALPHA).build_v1alpha()?);
    Ok(())
}

fn files_of(services: &BTreeSet<&str>) -> Result<DescriptorPool, DescriptorError> {
    let contract = DescriptorPool::decode(steward_proto::DESCRIPTORS)?;
    let mut files = DescriptorPool::new();
    for service in contract.services().filter(|service| services.contains(service.full_name())) {
        insert(&mut files, &service.parent_file())?;
    }
    Ok(files)
}

fn insert(files: &mut DescriptorPool, file: &FileDescriptor) -> Result<(), DescriptorError> {
    if files.get_file_by_name(file.name()).is_some() {
        return Ok(());
    }
    for imported in file.dependencies() {
        insert(files, &imported)?;
    }
    files.decode_file_descriptor_proto(&*file.encode_to_vec())
}
