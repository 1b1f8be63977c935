//! Every `unsafe` block and every raw system call of the program. Imports nothing of ours.
