//! An owner of the engine: reads and writes a pipe, echoes as a server, uploads as a client.

use bytes::{Buf, Bytes, BytesMut};
use mesh_http2::{Connection, Event, Field, StreamId};
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

/// The engine with its transport.
pub(crate) struct Engine {
    pub(crate) connection: Connection,
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
    input: BytesMut,
    wire: BytesMut,
}

impl Engine {
    pub(crate) fn new(connection: Connection, io: DuplexStream) -> Self {
        let (read, write) = tokio::io::split(io);
        Self {
            connection,
            read,
            write,
            input: BytesMut::new(),
            wire: BytesMut::new(),
        }
    }

    /// Reads or writes something, and says what came of it. None: the peer has closed.
    pub(crate) async fn turn(&mut self) -> Option<Vec<Event>> {
        if self.wire.is_empty() {
            let mut out = Vec::new();
            self.connection.transmit(16 * 1024, &mut out);
            out.iter().for_each(|part| part.write_to(&mut self.wire));
        }
        self.input.reserve(4096);
        tokio::select! {
            read = self.read.read_buf(&mut self.input) => {
                if read.unwrap_or(0) == 0 {
                    return None;
                }
            }
            written = self.write.write(&self.wire), if !self.wire.is_empty() => {
                self.wire.advance(written.ok()?);
            }
        }
        let mut events = Vec::new();
        while !self.input.is_empty() {
            self.connection.receive(&mut self.input).unwrap();
            events.extend(std::iter::from_fn(|| self.connection.poll_event()));
        }
        events.extend(std::iter::from_fn(|| self.connection.poll_event()));
        self.connection.refill();
        // The invariants hold in real life too.
        Connection::restore(self.connection.snapshot()).unwrap();
        Some(events)
    }

    /// Turns until everything is written and the connection is finished, or the peer has closed.
    pub(crate) async fn finish(mut self) {
        while !self.connection.is_finished() || !self.wire.is_empty() {
            if self.turn().await.is_none() {
                return;
            }
        }
        self.write.shutdown().await.unwrap();
    }
}

/// Accepts every stream and sends back what comes.
#[derive(Default)]
pub(crate) struct Echo {
    backlog: BTreeMap<StreamId, (BytesMut, bool)>,
    /// The fields of each request.
    pub(crate) requests: Vec<Vec<Field>>,
    /// Every event that ended a stream or the connection, in order.
    pub(crate) ends: Vec<Event>,
}

impl Echo {
    pub(crate) fn take(&mut self, connection: &mut Connection, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Headers {
                    stream,
                    fields,
                    end,
                } => {
                    self.requests.push(fields);
                    let ok = [Field::from_static(":status", "200")];
                    connection.send_headers(stream, &ok, false).unwrap();
                    self.backlog.insert(stream, (BytesMut::new(), end));
                    self.push(connection, stream);
                }
                Event::Data { stream, data, end } => {
                    let (backlog, ended) = self.backlog.get_mut(&stream).unwrap();
                    backlog.extend_from_slice(&data);
                    *ended |= end;
                    self.push(connection, stream);
                }
                Event::WindowOpened { stream } => self.push(connection, stream),
                Event::Closed { .. } | Event::Reset { .. } | Event::GoAway { .. } => {
                    self.ends.push(event);
                }
                _ => {}
            }
        }
    }

    /// Sends what is there, and gives credit for what was sent: no more waits here than a window.
    fn push(&mut self, connection: &mut Connection, stream: StreamId) {
        let (backlog, ended) = self.backlog.get_mut(&stream).unwrap();
        let taken = connection
            .send_data(stream, &mut backlog.clone().freeze())
            .unwrap();
        backlog.advance(taken);
        connection.release_window(stream, taken).unwrap();
        if backlog.is_empty() && *ended {
            connection.end_stream(stream).unwrap();
        }
    }
}

/// A client's streams: each sends a text and takes what comes back.
#[derive(Default)]
pub(crate) struct Uploads {
    rest: BTreeMap<StreamId, Bytes>,
    /// What came back.
    pub(crate) got: BTreeMap<StreamId, BytesMut>,
    /// Streams that ended well.
    pub(crate) closed: usize,
}

impl Uploads {
    pub(crate) fn open(
        &mut self,
        connection: &mut Connection,
        fields: &[Field],
        text: Bytes,
    ) -> StreamId {
        let stream = connection.open_stream(fields, false).unwrap();
        self.rest.insert(stream, text);
        self.got.insert(stream, BytesMut::new());
        self.push(connection, stream);
        stream
    }

    fn push(&mut self, connection: &mut Connection, stream: StreamId) {
        let rest = self.rest.get_mut(&stream).unwrap();
        connection.send_data(stream, rest).unwrap();
        if rest.is_empty() {
            connection.end_stream(stream).unwrap();
        }
    }

    pub(crate) fn take(&mut self, connection: &mut Connection, events: &[Event]) {
        for event in events {
            match event {
                Event::Headers { fields, .. } => assert_eq!(fields[0].value, "200"),
                Event::Data { stream, data, .. } => {
                    connection.release_window(*stream, data.len()).unwrap();
                    self.got.get_mut(stream).unwrap().extend_from_slice(data);
                }
                Event::WindowOpened { stream } => self.push(connection, *stream),
                Event::Closed { .. } => self.closed += 1,
                _ => {}
            }
        }
    }
}
