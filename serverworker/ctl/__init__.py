"""`serverworkerctl`: a session in the operator's terminal."""
