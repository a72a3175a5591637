//! Delta xDS client and local file: messages to a validated snapshot and change notices.
