"""JSON to our types and back, for each contract the server speaks. Pure: no server, no clock, no engine."""
