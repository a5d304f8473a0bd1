//! What a reload leaves as it is.

use super::*;

#[test]
fn settings_that_stay_until_a_restart_are_shown_as_they_are() {
    let running = good("workers: 3\nudp: {send_buffer: 64KiB}");
    let mut new = good("workers: 2\nallow: [all]\nudp: {send_buffer: 128KiB}");
    let order: Vec<_> = new.settings.iter().map(|s| s.path.clone()).collect();
    assert_eq!(new.keep_fixed(&running), ["workers", "udp.send_buffer"]);
    let shown = |path: &str| {
        let setting = new.settings.iter().find(|s| s.path == path);
        setting.expect("it is shown").value.clone()
    };
    assert_eq!(shown("workers"), "3");
    assert_eq!(shown("udp.send_buffer"), "64KiB");
    assert_eq!(shown("allow"), "[all]");
    let kept: Vec<_> = new.settings.iter().map(|s| s.path.clone()).collect();
    assert_eq!(kept, order);
}
