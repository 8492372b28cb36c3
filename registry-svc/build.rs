//! Migrations are compiled into the program, so cargo must rebuild it when one is added.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
