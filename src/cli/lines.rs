//! Reads an input line by line, with a limit on the length of a line.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

const READ_BUFFER_BYTES: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line, without its line break.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(Vec<u8>),
    /// The line is longer than allowed. Its text is dropped.
    TooLong {
        size_bytes: usize,
    },
}

/// Reads lines. Cancel safe: a partly read line is kept for the next call.
pub(super) struct LineReader<R> {
    input: BufReader<R>,
    max_line_bytes: usize,
    partial: Vec<u8>,
    /// Bytes of the current line so far, without its line break, also beyond the limit.
    line_bytes: usize,
    /// Bytes of the input that the current line has taken so far, with its line break.
    taken_bytes: usize,
    is_first: bool,
    is_at_end: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(super) fn new(input: R, max_line_bytes: usize) -> Self {
        let input = BufReader::with_capacity(READ_BUFFER_BYTES, input);
        Self {
            input,
            max_line_bytes,
            partial: Vec::new(),
            line_bytes: 0,
            taken_bytes: 0,
            is_first: true,
            is_at_end: false,
        }
    }

    /// Returns the next line, and how many bytes of the input it took; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<(Line, usize)>> {
        loop {
            if self.is_at_end {
                return Ok((self.taken_bytes > 0).then(|| self.take()));
            }
            let read = self.input.fill_buf().await?;
            self.is_at_end = read.is_empty();
            let end = read.iter().position(|byte| *byte == b'\n');
            let (text, taken) = end.map_or((read, read.len()), |end| (&read[..end], end + 1));
            let room = self.max_line_bytes.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            self.line_bytes += text.len();
            self.taken_bytes += taken;
            self.input.consume(taken);
            if end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> (Line, usize) {
        let mut text = std::mem::take(&mut self.partial);
        let size_bytes = std::mem::take(&mut self.line_bytes);
        let taken_bytes = std::mem::take(&mut self.taken_bytes);
        if std::mem::take(&mut self.is_first) && text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len());
        }
        let line = if size_bytes > self.max_line_bytes { Line::TooLong { size_bytes } } else { Line::Text(text) };
        (line, taken_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8], max_line_bytes: usize) -> Vec<Line> {
        let mut reader = LineReader::new(input, max_line_bytes);
        let mut lines = Vec::new();
        while let Some((line, _)) = reader.next().await.unwrap() {
            lines.push(line);
        }
        lines
    }

    #[tokio::test]
    async fn lines_are_read_whole_or_told_to_be_too_long() {
        let text = |text: &str| Line::Text(text.into());
        assert_eq!(lines(b"", 10).await, []);
        assert_eq!(lines(b"a\n\nb", 10).await, [text("a"), text(""), text("b")]);
        assert_eq!(lines(b"\xef\xbb\xbf{}\n\xef\xbb\xbf", 10).await[0], text("{}"));
        // A line of exactly the allowed length is not cut, with or without a line break.
        assert_eq!(lines(b"0123456789\n0123456789", 10).await, [text("0123456789"), text("0123456789")]);
        assert_eq!(lines(b"0123456789a", 10).await, [Line::TooLong { size_bytes: 11 }]);
        assert_eq!(lines(b"0123456789a\n", 10).await, [Line::TooLong { size_bytes: 11 }]);
        let long = [b"x".repeat(2_000_000), b"\nshort\n".to_vec()].concat();
        assert_eq!(lines(&long, 10).await, [Line::TooLong { size_bytes: 2_000_000 }, text("short")]);
    }
}
