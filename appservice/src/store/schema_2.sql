-- Since when handling an event has failed, in milliseconds since 1970.
ALTER TABLE handled ADD COLUMN failing_since INTEGER;
