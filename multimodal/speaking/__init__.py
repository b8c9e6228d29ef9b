"""Speech from text: a codec of sounds, a language model that writes its codes, and judges that listen."""
