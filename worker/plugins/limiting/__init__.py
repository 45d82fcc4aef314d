"""What the plugins have in common that limit how often something is asked for."""
