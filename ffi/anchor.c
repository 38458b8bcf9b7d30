/* The shared library is made of the Rust archive, which is linked whole; a linker wants one object besides it. */
typedef int qcontext_anchor;
