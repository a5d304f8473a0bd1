//! What was probably meant by a word that is not known.

/// What was probably meant: at least 80 % alike by Jaro-Winkler, or one slip away (`vcp`), which weighs too much in
/// short words.
pub(super) fn nearest(typed: &str, known: &[String]) -> Option<String> {
    // Comparing takes time by the square of the length.
    if typed.len() > 64 {
        return None;
    }
    let typed = typed.to_ascii_lowercase();
    let likeness = |candidate: &String| {
        let candidate = candidate.to_ascii_lowercase();
        let slip = typed.len() > 2 && strsim::damerau_levenshtein(&typed, &candidate) == 1;
        strsim::jaro_winkler(&typed, &candidate).max(if slip { 0.8 } else { 0.0 })
    };
    known
        .iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.clone())
}
