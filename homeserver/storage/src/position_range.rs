use crate::{LogPosition, Position};

impl Position {
    /// The commits that lie behind this place and before `to`: for each writer who has any, the first and the last of them.
    ///
    /// What keyspaces with a [`LogPosition`] in their keys are scanned by.
    pub fn ranges_to(&self, to: &Self) -> impl Iterator<Item = (LogPosition, LogPosition)> {
        to.writers().filter_map(|(writer, newest)| {
            let read_up_to = self.sequence_of(writer);
            let first = LogPosition { writer, sequence: read_up_to.saturating_add(1) };
            (newest > read_up_to).then_some((first, LogPosition { writer, sequence: newest }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WriterId;

    fn position(sequences: &[(u16, u64)]) -> Position {
        let mut position = Position::start();
        for &(writer, sequence) in sequences {
            position.include(LogPosition { writer: WriterId(writer), sequence });
        }
        position
    }

    #[test]
    fn each_writer_has_the_range_that_lies_between() {
        let (from, to) = (position(&[(0, 5), (1, 7), (3, 2)]), position(&[(0, 9), (1, 7), (2, 4), (3, 1)]));
        let at = |writer, sequence| LogPosition { writer: WriterId(writer), sequence };
        let ranges: Vec<_> = from.ranges_to(&to).collect();
        assert_eq!(ranges, [(at(0, 6), at(0, 9)), (at(2, 1), at(2, 4))]);
        assert_eq!(to.ranges_to(&to).count(), 0);
    }
}
