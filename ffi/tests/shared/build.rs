//! Compiles the C half.
#![forbid(unsafe_code)]

fn main() {
    println!("cargo::rerun-if-changed=src/half.c");
    println!("cargo::rerun-if-changed=../../include/qcontext.h");
    let mut build = cc::Build::new();
    build.file("src/half.c").include("../../include");
    build
        .flag("-std=gnu11")
        .extra_warnings(true)
        .warnings_into_errors(true);
    match pkg_config::Config::new()
        .atleast_version("2.74")
        .probe("gio-2.0")
    {
        Ok(gio) => drop(build.includes(gio.include_paths)),
        Err(error) => panic!("GIO's headers are needed: {error}"),
    }
    build.compile("half");
}
