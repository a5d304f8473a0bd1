//! Any bytes as a client's message: reading must not panic, and the question read from a query's key must be the query's.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nodens::message::form::QueryForm;
use nodens::message::query::{Query, Question};

fuzz_target!(|bytes: &[u8]| {
    let Ok(query) = Query::read(bytes) else {
        return;
    };
    let key = query.key();
    let question = Question::of(key.as_bytes());
    assert!(question.name.eq_ignore_ascii_case(query.name));
    assert_eq!(question.qtype, query.qtype);

    // The query for servers is a valid query with the same question.
    for form in [
        QueryForm::Full,
        QueryForm::WithoutOpt,
        QueryForm::WithoutAd,
        QueryForm::Plain,
    ] {
        let mut message = Vec::new();
        question.write(7, form, &mut message);
        let sent = Query::read(&message).expect("our own query is well-formed");
        assert_eq!(sent.name, question.name);
        assert_eq!((sent.qtype, sent.qclass), (query.qtype, query.qclass));
        if form.has_opt() {
            assert_eq!(sent.key().as_bytes(), key.as_bytes());
        }
    }
});
