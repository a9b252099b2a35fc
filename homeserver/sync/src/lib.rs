//! What a user sees of the rooms they are in.
