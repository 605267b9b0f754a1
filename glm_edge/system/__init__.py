"""The machine: processors and memory, opening and replacing files safely, the profile of what runs fastest here."""
