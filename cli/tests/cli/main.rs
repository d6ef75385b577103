//! What a person types, and what comes of it.

mod bad_input;
mod life;
mod support;

#[test]
fn the_transcripts_hold() {
    trycmd::TestCases::new().case("tests/transcripts/*.trycmd");
}
