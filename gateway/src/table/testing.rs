//! Tables of contracts for tests.

use std::path::Path;

use super::{Error, Table};

/// The table of the contract in `tests/probe.proto`.
pub(crate) fn probe() -> Table {
    table(include_str!("../../tests/probe.proto")).unwrap()
}

/// The table of a contract given as the text of one file.
pub(crate) fn table(source: &str) -> Result<Table, Error> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("probe.proto"), source).unwrap();
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let mut compiler = protox::Compiler::new([dir.path(), &protos]).unwrap();
    compiler.include_imports(true).include_source_info(true).open_file("probe.proto").unwrap();
    Table::decode(&compiler.encode_file_descriptor_set())
}
