"""What this machine can do, and how to mend what it cannot: `command` puts it together, the others look at one part."""
