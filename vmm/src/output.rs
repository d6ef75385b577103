//! What becomes of a realm's output.

use std::io::{ErrorKind, Write};

/// Bytes of output that are kept. A realm is not trusted with the memory of its VMM.
pub(crate) const MAX_OUTPUT: usize = 16 << 20;

/// Keeps output and shows it.
#[derive(Default)]
pub(crate) struct Output {
    kept: Vec<u8>,
    shown: Option<Box<dyn Write + Send>>,
}

impl Output {
    /// Shows what comes from now on.
    pub(crate) fn show(&mut self, out: Box<dyn Write + Send>) {
        self.shown = Some(out);
    }

    /// The first [`MAX_OUTPUT`] bytes.
    pub(crate) fn kept(&self) -> &[u8] {
        &self.kept
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Takes as much as can be shown now; how much that was.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = match &mut self.shown {
            Some(shown) => match shown.write(bytes) {
                Ok(taken) => taken.min(bytes.len()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
                // A closed terminal is nothing the realm could notice.
                Err(_) => bytes.len(),
            },
            None => bytes.len(),
        };
        self.keep(&bytes[..taken]);
        let _ = self.flush();
        taken
    }
}

/// Takes everything.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.keep(bytes);
        if let Some(shown) = &mut self.shown {
            // A closed terminal is nothing the realm could notice.
            let _ = shown.write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if let Some(shown) = &mut self.shown {
            let _ = shown.flush();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    #[test]
    fn a_realm_that_never_stops_writing_fills_no_more_than_the_limit() {
        let mut output = Output { kept: vec![0; MAX_OUTPUT - 1], shown: None };
        assert_eq!((output.write(b"ab").unwrap(), output.take(b"cd")), (2, 2), "the realm does not notice");
        assert_eq!((output.kept().len(), output.kept().last()), (MAX_OUTPUT, Some(&b'a')));
    }

    /// Takes two bytes, blocks once, is closed.
    struct Pipe(u32);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 => Ok(bytes.len().min(2)),
                2 => Err(Error::from(ErrorKind::WouldBlock)),
                _ => Err(Error::from(ErrorKind::BrokenPipe)),
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_shown_now_is_not_taken() {
        let mut output = Output::default();
        output.show(Box::new(Pipe(0)));
        assert_eq!((output.take(b"abcd"), output.take(b"cd")), (2, 0));
        assert_eq!(output.kept(), b"ab");
        assert_eq!((output.take(b"cd"), output.kept()), (2, &b"abcd"[..]), "nobody looks any more");
    }
}
