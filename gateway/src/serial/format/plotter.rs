//! What the serial plotter of the Arduino IDE reads. Pure.
//!
//! ```text
//! line   = item { separator item }      separator: comma, semicolon, blanks, tabs
//! item   = label ":" number | number
//! header = label { separator label }    the names of the numbers without a label that follow; where
//!                                       there are two or more, each may have a ":" behind it
//! ```
//!
//! A number without a label gets its name from the header, else `value1`, `value2`... by its
//! place; a place where nothing stands between two commas or semicolons is passed over. A header
//! stands before the numbers: words among them, such as an error for people, name nothing. So a
//! sketch that was written for the plotter needs no change.

use fieldpost_protocol::check_metric;

use super::value::{Printed, word};
use super::{Content, Refusal, shown};

/// Names of a header; a line of more words is none.
const COLUMNS_MAX: usize = 64;

/// What is known from the lines before.
#[derive(Debug, Default)]
pub(super) struct Plotter {
    columns: Vec<String>,
    /// Numbers have got their names; another header would give them other ones in silence.
    named: bool,
}

impl Plotter {
    /// Reads a line of measurements; `None`: a header, which measures nothing.
    pub(super) fn reading<'l>(&mut self, body: &'l str) -> Result<Option<Content<'l>>, Refusal> {
        if let Some(labels) = bare_labels(body) {
            return self.take_header(&labels).map(|()| None);
        }
        let items = items(body)?;
        if items.iter().all(|item| item.text.is_empty()) {
            return Err(Refusal::Empty);
        }
        let is_word = |item: &Item<'_>| item.label.is_none() && !is_number(item.text);
        // One word alone is rather a greeting than a header.
        if items.len() > 1 && items.iter().all(is_word) {
            return self.take_header(&items).map(|()| None);
        }
        let mut content = Content::new();
        let mut place = 0;
        for Item { label, text } in items {
            let name = match label {
                Some(label) => {
                    check_metric(label).map_err(Refusal::Metric)?;
                    label.into()
                }
                None => {
                    place += 1;
                    if text.is_empty() {
                        continue;
                    }
                    let named = self.columns.get(place - 1).cloned();
                    named.unwrap_or_else(|| format!("value{place}")).into()
                }
            };
            content.push(name, number(text)?);
        }
        self.named |= place > 0;
        Ok(Some(content))
    }

    fn take_header(&mut self, items: &[Item<'_>]) -> Result<(), Refusal> {
        if items.len() > COLUMNS_MAX {
            return Err(Refusal::Number(shown(items[0].text)));
        }
        for item in items {
            check_metric(item.text).map_err(|_| Refusal::Number(shown(item.text)))?;
        }
        let same = self.columns.iter().map(String::as_str).eq(items.iter().map(|item| item.text));
        if self.named && !same {
            return Err(Refusal::Number(shown(items[0].text)));
        }
        self.columns = items.iter().map(|item| item.text.to_owned()).collect();
        Ok(())
    }

    /// The port was opened again: another sketch may be on the board.
    pub(super) fn reopened(&mut self) {
        self.named = false;
    }
}

/// `temp:,hum:`: labels without a number. One alone is a line that lost its number.
fn bare_labels<'l>(body: &'l str) -> Option<Vec<Item<'l>>> {
    let label = |part: &'l str| part.strip_suffix(':').map(|text| Item { label: None, text });
    let labels = parts(body).map(label).collect::<Option<Vec<_>>>()?;
    (labels.len() > 1).then_some(labels)
}

fn parts(body: &str) -> impl Iterator<Item = &str> {
    cells(body).flatten()
}

/// What stands between commas and semicolons, each cut at its blanks.
fn cells(body: &str) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    body.split([',', ';']).map(|cell| cell.split([' ', '\t']).filter(|part| !part.is_empty()))
}

struct Item<'l> {
    label: Option<&'l str>,
    text: &'l str,
}

/// `temp:24.5`, `temp: 24.5` and `24.5`.
fn items(body: &str) -> Result<Vec<Item<'_>>, Refusal> {
    let mut items = Vec::new();
    let mut waiting = None;
    // Many a sketch ends each value with a comma, the last one too.
    let body = body.trim_end_matches([',', ';', ' ', '\t']);
    for mut cell in cells(body).map(Iterator::peekable) {
        if cell.peek().is_none() && waiting.is_none() {
            items.push(Item { label: None, text: "" });
        }
        for part in cell {
            let (label, text) = match part.split_once(':') {
                Some((label, text)) => (Some(label), text),
                None => (waiting.take(), part),
            };
            if let Some(label) = waiting {
                return Err(Refusal::ValueMissing(shown(label)));
            }
            if text.is_empty() {
                waiting = label;
            } else {
                items.push(Item { label, text });
            }
        }
    }
    match waiting {
        Some(label) => Err(Refusal::ValueMissing(shown(label))),
        None => Ok(items),
    }
}

fn number(text: &str) -> Result<Printed, Refusal> {
    if is_number(text) { Ok(word(text)) } else { Err(Refusal::Number(shown(text))) }
}

fn is_number(text: &str) -> bool {
    use fieldpost_protocol::Value::{Float, Int};
    matches!(word(text), Printed::NotANumber | Printed::Value(Int(_) | Float(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(plotter: &mut Plotter, line: &str) -> Vec<(String, String)> {
        let content = plotter.reading(line).unwrap().unwrap();
        let told = content.metrics.into_iter();
        told.map(|(name, value)| (name.into_owned(), format!("{value:?}"))).collect()
    }

    fn names(plotter: &mut Plotter, line: &str) -> Vec<String> {
        metrics(plotter, line).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn labels_may_stand_before_each_number_with_or_without_a_blank() {
        let mut plotter = Plotter::default();
        for line in
            ["temp:24.5,hum:60", "temp: 24.5\thum: 60", "temp:24.5 hum:60", " temp: 24.5, hum: 60 "]
        {
            assert_eq!(names(&mut plotter, line), ["temp", "hum"], "{line:?}");
        }
    }

    #[test]
    fn numbers_without_a_label_are_named_by_the_header_or_by_their_place() {
        let mut plotter = Plotter::default();
        assert_eq!(names(&mut plotter, "1, 2"), ["value1", "value2"]);
        plotter.reopened();
        assert!(plotter.reading("temp\thum").unwrap().is_none());
        assert_eq!(names(&mut plotter, "24.5\t60\t800"), ["temp", "hum", "value3"]);
        assert_eq!(names(&mut plotter, "x:1 24.5"), ["x", "temp"]);
        for header in ["temp:,hum:", "temp: hum:", "temp:\thum:"] {
            let mut plotter = Plotter::default();
            assert!(plotter.reading(header).unwrap().is_none(), "{header:?}");
            assert_eq!(names(&mut plotter, "24.5,60"), ["temp", "hum"]);
        }
    }

    #[test]
    fn a_value_that_is_missing_moves_no_other() {
        let mut plotter = Plotter::default();
        assert!(plotter.reading("temp,hum,co2").unwrap().is_none());
        assert_eq!(names(&mut plotter, "24.5,,800"), ["temp", "co2"]);
        assert_eq!(names(&mut plotter, "24.5; ;800;"), ["temp", "co2"]);
        assert_eq!(names(&mut plotter, ", 60 , 800"), ["hum", "co2"]);
    }

    #[test]
    fn words_among_the_numbers_are_no_header() {
        let mut plotter = Plotter::default();
        assert!(plotter.reading("temp hum").unwrap().is_none());
        assert_eq!(names(&mut plotter, "24.5 60"), ["temp", "hum"]);
        assert_eq!(plotter.reading("Sensor error"), Err(Refusal::Number("Sensor".into())));
        assert!(plotter.reading("temp hum").unwrap().is_none(), "the board has started again");
        assert_eq!(names(&mut plotter, "24.5 60"), ["temp", "hum"]);
    }

    #[test]
    fn what_is_no_number_is_refused_and_nan_is_null() {
        let mut plotter = Plotter::default();
        assert_eq!(plotter.reading("temp:nan").unwrap().unwrap().nulls, 1);
        for (line, why) in [
            ("", Refusal::Empty),
            (" , ", Refusal::Empty),
            ("temp:", Refusal::ValueMissing("temp".into())),
            ("temp: hum: 5", Refusal::ValueMissing("temp".into())),
            ("temp:24.5C", Refusal::Number("24.5C".into())),
            ("24.5 C", Refusal::Number("C".into())),
            ("a=b c", Refusal::Number("a=b".into())),
        ] {
            assert_eq!(plotter.reading(line).unwrap_err(), why, "{line:?}");
        }
    }
}
