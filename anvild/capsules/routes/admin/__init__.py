"""What the platform's admins do: a module for each subject. What they share with teams is declared with those."""
