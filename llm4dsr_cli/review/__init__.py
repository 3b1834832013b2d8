"""Review: an audit as a page for people, who look at edits and choose those to take back."""
